"""Preference pairs respect ranks, are the model's own errors where they say so, and hold the ids of training."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stoical.decoding.beam_search import beam_search
from stoical.decoding.choices import Reduction
from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.sampling import free_outputs
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenized import TokenizedQuery
from stoical.preferences import run as preference_run
from stoical.preferences import spin
from stoical.preferences.pairs import Pair, PairMaker, as_dataset, beam_pairs, free_pairs, ranking_pairs
from stoical.preferences.run import keep_pairs, kept_pairs
from stoical.preferences.settings import PairSettings
from stoical.trie.node_weights import TargetSettings
from stoical.trie.prefix_tree import build_trie
from tests.support.small_evaluation import WORDS, encoded, make_rows, token_logprobs
from tests.support.tiny_model import tiny_model

EOS = WORDS.index("</s>")


def query_of(ranks: list[int]) -> TokenizedQuery:
    """DocID i is the ids (10 + i, EOS)."""
    ids = [[10 + place, EOS] for place in range(len(ranks))]
    return TokenizedQuery("q", [1, 5], [str(i) for i in ids], ids, [2] * len(ids), ranks)


def places(pairs: Any) -> list[tuple[int, int]]:
    return [(pair.chosen_ids[0] - 10, pair.rejected_ids[0] - 10) for pair in pairs]


def maker(source: Any, score: Reduction = "mean", rows: int = 11, **settings: Any) -> PairMaker:
    dataset = EncodedDataset(make_rows(rows, negatives=0), encoded([]).encoder)  # type: ignore[arg-type]
    collator = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False)
    return PairMaker(dataset, collator, PairSettings(source=source, **settings), score, "sequence", 4, seed="0/0")


def test_the_three_ways_to_pair_a_ranking() -> None:
    query = query_of([1, 2, 3, 4])
    assert places(ranking_pairs(query, "top", None, "0")) == [(0, 1), (0, 2), (0, 3)]
    assert places(ranking_pairs(query, "adjacent", None, "0")) == [(0, 1), (1, 2), (2, 3)]
    assert places(ranking_pairs(query, "top", 2, "0")) == [(0, 1), (0, 2)]
    drawn = [places(ranking_pairs(query, "random", 3, str(seed))) for seed in range(50)]
    assert {pair for pairs in drawn for pair in pairs} == set(combinations(range(4), 2))
    assert all(len(set(pairs)) == 3 for pairs in drawn)
    assert drawn[7] == places(ranking_pairs(query, "random", 3, "7"))
    assert places(ranking_pairs(query, "random", 99, "0")) == list(combinations(range(4), 2))


@given(st.lists(st.booleans(), max_size=7), st.sampled_from(["top", "adjacent", "random"]))
def test_chosen_documents_have_a_better_rank_and_other_ids(shared: list[bool], which: Any) -> None:
    ranks = [1]
    for place, same in enumerate(shared, 2):
        ranks.append(ranks[-1] if same else place)
    found = places(ranking_pairs(query_of(ranks), which, 4, "0"))
    assert all(ranks[better] < ranks[worse] for better, worse in found)
    wanted = [(i, j) for i, j in combinations(range(len(ranks)), 2) if ranks[i] < ranks[j]]
    if which == "top":
        wanted = [(i, j) for i, j in wanted if ranks[i] == 1]
    if which == "adjacent":
        between = {(one, other) for one, other in pairwise(sorted(set(ranks)))}
        wanted = [(i, j) for i, j in wanted if (ranks[i], ranks[j]) in between]
    assert len(found) == min(4, len(wanted))
    assert set(found) <= set(wanted)


def test_beam_errors_are_what_outranks_the_first_document_best_first() -> None:
    query = query_of([1, 2, 3, 4])
    assert places(beam_pairs(query, [-2.0, -1.5, -3.0, -1.0], None)) == [(0, 3), (0, 1)]
    assert places(beam_pairs(query, [-2.0, -1.5, -3.0, -1.0], 1)) == [(0, 3)]
    assert places(beam_pairs(query, [-torch.inf, -9.0, -torch.inf, -8.0], None)) == [(0, 3), (0, 1)]
    assert places(beam_pairs(query, [-1.0, -1.0, -3.0, -4.0], None)) == []
    assert places(beam_pairs(query_of([1, 1, 3]), [-2.0, -1.0, -1.5], None)) == [(0, 2)]
    assert places(beam_pairs(query_of([1, 1, 3]), [-2.0, -1.7, -1.5], None)) == [(0, 2), (1, 2)]
    assert places(beam_pairs(query_of([1, 1, 3, 4]), [-2.0, -1.0, -1.5, -1.2], None)) == [(0, 3), (0, 2)]


def test_every_document_of_rank_1_is_preferred() -> None:
    query = query_of([1, 1, 3, 3, 5])
    top = [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert places(ranking_pairs(query, "top", None, "0")) == top
    assert places(ranking_pairs(query, "adjacent", None, "0")) == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 4), (3, 4)]


@pytest.mark.parametrize("source", ["ranking", "beam", "free"])
@pytest.mark.parametrize("per_query", [None, 2])
def test_pairs_do_not_depend_on_the_files_order_of_tied_documents(source: Any, per_query: int | None) -> None:
    model = tiny_model(vocab_size=len(WORDS), seed=3)
    settings = {"free": {"temperature": 1.0, "max_new_tokens": 3}}.get(source, {})
    found, listings = [], []
    for seed in range(3):
        mixed, rows = random.Random(seed), []
        for each in make_rows(8, negatives=0):
            docs = [replace(doc, rank=1 + 2 * (place // 2)) for place, doc in enumerate(each.docs)]
            docs.sort(key=lambda doc: (doc.rank, mixed.random()))
            rows.append(replace(each, docs=tuple(docs)))
        make = replace(
            maker(source, per_query=per_query, **settings), dataset=EncodedDataset(rows, encoded([]).encoder)
        )
        listings.append([doc.docid for each in rows for doc in each.docs])
        found.append(make(model))
    assert found[0] == found[1] == found[2]
    assert found[0][0]
    assert listings[0] != listings[1]


@pytest.mark.parametrize("score", ["mean", "sum"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_beam_pairs_are_the_errors_of_a_beam_search_that_was_run(score: Any, num_beams: int) -> None:
    model = tiny_model(vocab_size=len(WORDS))
    make = maker("beam", score, rows=25, num_beams=num_beams)
    pairs, counts = make(model)
    wanted = []
    for query in make.dataset:
        trie = DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted)
        found = [hypothesis.doc for hypothesis in beam_search(model, query.prompt_ids, trie, num_beams, score)]
        before = found[: found.index(0)] if 0 in found else found
        wanted += [Pair(query.query_id, query.prompt_ids, query.docid_ids[0], query.docid_ids[i]) for i in before]
    assert len(wanted) > 5
    assert pairs == wanted
    assert counts["pairs"] == len(wanted)
    assert counts["queries"] == 25


def written(
    model: torch.nn.Module, prompts: list[list[int]], steps: int, temperature: float, seeds: list[str]
) -> list[list[int]]:
    queries = [TokenizedQuery(str(i), ids, ["a"], [[5, EOS]], [2], [1]) for i, ids in enumerate(prompts)]
    batch = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False)(queries)["batch"]
    return free_outputs(model, batch, EOS, steps, temperature, seeds)


def test_free_outputs_are_greedy_decoding_one_forward_a_token() -> None:
    model = tiny_model(vocab_size=len(WORDS), seed=3)
    prompts = [[1, 5, 6], [1, 7], [1, 8, 9, 10, 11, 5]]
    for prompt, found in zip(prompts, written(model, prompts, 6, 0.0, ["", "", ""]), strict=True):
        ids: list[int] = []
        while len(ids) < 6 and EOS not in ids:
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].argmax()))
        assert found == ids


def test_sampled_outputs_have_the_models_distribution_and_their_own_seeds() -> None:
    model = tiny_model(vocab_size=len(WORDS), seed=3)
    prompts, seeds = [[1, 5, 6]] * 1500, [str(seed) for seed in range(1500)]
    outputs = written(model, prompts, 1, 0.7, seeds)
    with torch.no_grad():
        wanted = (model(input_ids=torch.tensor(prompts[:1])).logits[0, -1] / 0.7).softmax(-1)
    counts = torch.zeros(len(WORDS)).index_add(0, torch.tensor([ids[0] for ids in outputs]), torch.ones(1500))
    assert torch.allclose(counts / 1500, wanted, atol=0.05)
    alone = written(model, [[1, 5, 6]], 5, 0.7, ["9"])
    beside = written(model, [[1, 8], [1, 5, 6]], 5, 0.7, ["4", "9"])
    assert alone[0] == beside[1]


def test_right_and_repeated_outputs_make_no_pair_and_are_counted() -> None:
    counts: Counter[str] = Counter()
    outputs = [[10, EOS], [11, EOS], [12, EOS], [44], [12, EOS]]
    found = list(free_pairs(query_of([1, 1, 3]), outputs, counts))
    assert [pair.rejected_ids for pair in found] == [[12, EOS], [44]]
    assert [pair.chosen_ids for pair in found] == [[10, EOS], [11, EOS]], "they take turns"
    assert counts == {"right_outputs": 2, "repeated_outputs": 1}


def test_free_pairs_hold_the_prompt_of_training_and_are_made_again_alike() -> None:
    model = tiny_model(vocab_size=len(WORDS))
    make = maker("free", temperature=1.0, per_query=3, max_new_tokens=3)
    pairs, counts = make(model)
    assert make(model) == (pairs, counts)
    queries = {query.query_id: query for query in make.dataset}
    for pair in pairs:
        assert pair.prompt_ids == queries[pair.query_id].prompt_ids
        assert pair.prompt_ids.count(WORDS.index("<s>")) == 1
        assert pair.chosen_ids == queries[pair.query_id].docid_ids[0] != pair.rejected_ids
    dropped = counts.get("right_outputs", 0) + counts.get("repeated_outputs", 0)
    assert len(pairs) + dropped == 3 * 11
    assert counts["cut_outputs"] > 0


def test_a_sample_of_the_queries_is_the_same_every_time() -> None:
    make = maker("ranking", num_queries=4)
    pairs, counts = make(torch.nn.Linear(1, 1))
    assert counts["queries"] == 4
    assert make(torch.nn.Linear(1, 1))[0] == pairs


def test_kept_pairs_are_whole_when_the_next_writing_of_them_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a resumed run writes them: over those that are there."""
    pairs = as_dataset([Pair("q", [1], [10, EOS], [11, EOS])])
    keep_pairs(pairs, {"seed": 0}, tmp_path)

    def killed(table: Any, path: Path) -> None:
        path.write_bytes(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr(preference_run.pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_pairs(pairs, {"seed": 0}, tmp_path)
    kept = kept_pairs(tmp_path)
    assert kept is not None
    assert (kept[0].to_list(), kept[1]) == (pairs.to_list(), {"seed": 0})


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_pairs_that_are_not_as_they_were_kept_are_refused(tmp_path: Path, damage: str) -> None:
    keep_pairs(as_dataset([Pair("q", [1], [10, EOS], [11, EOS])]), {"seed": 0}, tmp_path)
    path = tmp_path / "pairs.parquet"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        keep_pairs(as_dataset([Pair("q", [1], [11, EOS], [10, EOS])]), {"seed": 0}, tmp_path / "other")
        path.write_bytes((tmp_path / "other" / "pairs.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"pairs\.parquet is gone or damaged; delete pairs\.json"):
        kept_pairs(tmp_path)


def test_an_iteration_does_not_leave_out_lost_pairs_of_the_one_before(tmp_path: Path) -> None:
    assert spin._earlier(tmp_path / "iteration-1", 1) == []
    with pytest.raises(ValueError, match="iteration-1 has lost its pairs, which iteration 2 trains on, too"):
        spin._earlier(tmp_path / "iteration-2", 2)


def test_pairs_as_trl_takes_them() -> None:
    pair = Pair("q", [1, 2], [3, EOS], [4, EOS])
    assert as_dataset([pair])[0] == {
        "query_id": "q",
        "prompt_ids": [1, 2],
        "chosen_ids": [3, EOS],
        "rejected_ids": [4, EOS],
    }


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (PairSettings("ranking", num_beams=3), ["num_beams"], "dpo.num_beams has no effect with dpo.source=ranking"),
        (PairSettings("beam", temperature=1), ["temperature"], "drop it, or set dpo.source=free"),
        (PairSettings("ranking", pairs="random"), [], "dpo.pairs=random needs dpo.per_query"),
        (PairSettings("free", per_query=2), [], "writes the same output every time"),
        (PairSettings("free", temperature=-1.0), [], "dpo.temperature=-1.0 must be"),
        (PairSettings(num_beams=0), [], "dpo.num_beams=0 must be at least 1"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(
    settings: PairSettings, given: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings.check("dpo", given)


def test_one_document_a_query_has_free_pairs_alone() -> None:
    model = tiny_model(vocab_size=len(WORDS))
    make = maker("free", max_new_tokens=4, rows=30)
    single = [row for row in make.dataset.rows if len(row.docs) == 1]
    assert single
    make.dataset.rows = single  # type: ignore[assignment]
    pairs, _ = make(model)
    assert len(pairs) == len(single)
    for pair in pairs:
        assert sum(token_logprobs(model, pair.prompt_ids, pair.rejected_ids)) < 0
    assert list(ranking_pairs(make.dataset[0], "top", None, "0")) == []
