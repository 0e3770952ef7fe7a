"""The drawn trie: where nodes stand, by hand and for random tries, and what the command writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoical.commands.draw_trie import main
from stoical.reporting import draw_trie
from stoical.reporting.draw_trie import lay_out
from stoical.trie.prefix_tree import build_trie
from tests.support.small_data import make_rows, write_dataset


def test_chains_are_one_edge_and_the_best_ranked_is_on_top() -> None:
    """Under 9: 8 7 (rank 3), 5 4 (rank 1), 5 6 (rank 2); the root's only child is 9, so that both are one node."""
    trie = build_trie([[9, 8, 7], [9, 5, 4], [9, 5, 6]])
    drawn = lay_out(trie, np.array([3, 1, 2]))
    tokens = [trie.token[node] for node in drawn.node]
    assert tokens == [9, 5, 4, 6, 7]
    assert [trie.token[node] for node in drawn.first[1:]] == [5, 4, 6, 8]
    assert drawn.parent.tolist() == [0, 0, 1, 1, 0]
    assert drawn.column.tolist() == [0, 1, 2, 2, 1]
    assert drawn.row.tolist() == [1.25, 0.5, 0, 1, 2]


def test_a_docid_that_others_go_on_from_has_a_row_of_its_own() -> None:
    drawn = lay_out(build_trie([[5], [5, 6], [5, 7]]), np.array([1, 2, 3]))
    assert drawn.row.tolist() == [0, 1, 2]
    assert drawn.column.tolist() == [0, 1, 1]


@given(st.sets(st.lists(st.integers(3, 6), min_size=1, max_size=4).map(tuple), min_size=1, max_size=30), st.booleans())
def test_every_docid_has_a_row_and_no_two_share_one(docids: set[tuple[int, ...]], terminated: bool) -> None:
    trie = build_trie([[*ids, *[2] * terminated] for ids in sorted(docids)])
    drawn = lay_out(trie, np.arange(1, len(docids) + 1))
    row = dict(zip(drawn.node.tolist(), drawn.row.tolist(), strict=True))
    assert sorted(row[leaf] for leaf in trie.leaf.tolist()) == list(range(len(docids)))
    assert row[int(trie.leaf[0])] == 0 or not terminated
    for place in range(1, len(drawn.node)):
        above = drawn.node[drawn.parent[place]]
        assert trie.parent[drawn.first[place]] == above, "an edge begins below the node that it is drawn from"
        assert drawn.column[place] == drawn.column[drawn.parent[place]] + 1


@pytest.mark.paints
def test_the_command_writes_the_figure_and_the_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data")
    row = make_rows(24, 0)[5]
    settings = ["recipe=wordnet_beta2,small", "tokenizer.vocab_size=300", f"data.path={tmp_path / 'data'}"]
    main([*settings, "query=q5", f"output={tmp_path}"])
    prompt = (tmp_path / "prompt.txt").read_text()
    assert all(doc["docid"] in prompt for doc in row["docs"])  # type: ignore[attr-defined]
    assert prompt.endswith(f"; {row['query']} :\n")
    assert f"{len(row['docs'])} docIDs" in capsys.readouterr().out  # type: ignore[arg-type]
    assert (tmp_path / "trie.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"query=q99: .*train has no query of that id"):
        main([*settings, "query=q99", f"output={tmp_path}"])


@pytest.mark.paints
def test_a_ranking_loss_alone_has_no_weights_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of docIDs' scores: the figure showed next-token prediction's weights, which nothing trains on."""
    write_dataset(tmp_path / "data")
    drawn: list[float] = []
    monkeypatch.setattr(draw_trie, "_draw_branch", lambda axis, trie, place, weight, written: drawn.append(weight))
    for recipe, weighted in (("wordnet_ranking", False), ("wordnet_ntp", True)):
        words = [f"recipe={recipe},small", "tokenizer.vocab_size=300", f"data.path={tmp_path / 'data'}"]
        main([*words, f"output={tmp_path}"])
        assert any(drawn) is weighted
        assert ("; no node has a weight: the loss is list_mle" in capsys.readouterr().out) is not weighted
        drawn.clear()
