"""Figure 3: lengths of lists, prompts and docIDs, counted again by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stoical.build.encoder import build_tokenizer
from stoical.commands.histograms import main
from stoical.config.loading import load_recipe
from stoical.data.rows import Doc
from stoical.encoding.prompts import load_template
from stoical.encoding.tokenization import encode_prompt
from stoical.reporting.histograms import BINS, bars
from tests.support.small_data import make_rows, write_dataset


def test_bars_hold_every_value_once() -> None:
    edges, counts = bars(np.array([3, 3, 4, 7]))
    assert (edges.tolist(), counts.tolist()) == ([3, 4, 5, 6, 7, 8], [2, 1, 0, 0, 1])
    wide = np.random.default_rng(0).integers(100, 4000, size=500)
    edges, counts = bars(wide)
    assert (counts.sum(), len(counts) <= BINS) == (500, True)
    assert len(set(np.diff(edges).tolist())) == 1
    assert [bars(np.array([5]))[part].tolist() for part in (0, 1)] == [[5, 6], [1]]


@pytest.mark.paints
def test_the_command_counts_both_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data")
    settings = [f"data.path={tmp_path / 'data'}", "tokenizer.name=bpe", "tokenizer.vocab_size=300"]
    rows = [*make_rows(24, 0), *[row | {"negatives": []} for row in make_rows(6, 1, negatives=1)]]
    tokenizer = build_tokenizer(load_recipe("recipe=wordnet_ntp", *settings))
    names = [[doc["docid"] for doc in row["docs"]] for row in rows]  # type: ignore[attr-defined]
    docids = [[len(tokenizer.encode(name, add_special_tokens=False)) + 1 for name in docs] for docs in names]
    template = load_template("wordnet")
    texts = [template.render(str(row["query"]), list(map(Doc, docs))) for row, docs in zip(rows, names, strict=True)]
    prompts = [len(encode_prompt(tokenizer, text)) for text in texts]
    needed = [prompt + max(tokens) for prompt, tokens in zip(prompts, docids, strict=True)]
    limit = next(need for need, tokens in zip(needed, docids, strict=True) if max(tokens) > min(tokens)) - 1

    main(["recipes=wordnet_ntp", *settings, f"output={tmp_path / 'out'}", f"prompt.max_length={limit}"])
    found = json.loads((tmp_path / "out" / "length_histograms.json").read_text())["data"]
    documents = Counter(map(len, names))
    assert dict(zip(found["documents"]["edges"], found["documents"]["counts"], strict=False)) == {
        length: documents[length] for length in range(min(documents), max(documents) + 1)
    }
    tokens_of_all = [tokens for of_query in docids for tokens in of_query]
    assert found["docid_tokens"]["mean"] == pytest.approx(np.mean(tokens_of_all), abs=1e-3)
    assert sum(found["docid_tokens"]["counts"]) == len(tokens_of_all)
    assert (found["prompt_tokens"]["max"], found["prompt_tokens"]["median"]) == (max(prompts), np.median(prompts))
    assert found["queries"] == sum(found["prompt_tokens"]["counts"]) == 30
    assert found["queries_over_max_length"] == sum(need > limit for need in needed)
    assert f"{found['queries_over_max_length']} over {limit} tokens" in capsys.readouterr().out
    assert (tmp_path / "out" / "length_histograms.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.paints
def test_datasets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """The later one took the earlier one's place, figure and counts."""
    for folder, template in (("first", "compact"), ("second", "plain")):
        write_dataset(tmp_path / folder / "data")
        (tmp_path / f"{folder}.yaml").write_text(
            f"data: {{path: {tmp_path / folder / 'data'}}}\nprompt: {{template: {template}}}\n"
        )
    words = [str(tmp_path / f"{folder}.yaml") for folder in ("first", "second")]
    bpe = ["tokenizer.name=bpe", "tokenizer.vocab_size=300"]
    main([f"recipes={','.join(words)}", *bpe, f"output={tmp_path / 'out'}"])
    found = json.loads((tmp_path / "out" / "length_histograms.json").read_text())
    longer, shorter = (found[f"data ({word})"]["prompt_tokens"]["mean"] for word in words)
    assert longer > shorter, "the plain prompt has no documents"
