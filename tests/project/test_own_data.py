"""The README's way from a user's own file to ranked results: its commands run as they stand, only smaller."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from torch import nn

from stoical.commands.rank import rank_lines
from stoical.docids.table import DocIDTable
from tests.support.commands import run
from tests.support.documents import DOCUMENTS, commands, split_pipe, stoical_words
from tests.support.root import ROOT
from tests.support.small_data import TINY, write_dataset

SHOP = ROOT / "examples" / "shop"


def shop_commands() -> list[str]:
    """The commands on the example, in the order of the one document that shows them all."""
    shown = {document: [line for line in commands(document) if "shop" in line] for document in DOCUMENTS}
    return max(shown.values(), key=len)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples in it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smaller(words: Sequence[str]) -> list[str]:
    """The words of a training command with a model of one layer, and three steps."""
    kept = {word.partition("=")[0]: word for word in TINY if not word.startswith("tokenizer")}
    return [*(word for word in words if word.partition("=")[0] not in kept), *kept.values()]


def test_the_commands_of_the_readme_lead_from_ratings_to_a_ranking(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: dict[str, str] = {}
    for line in shop_commands():
        *before, command = split_pipe(line)
        words = stoical_words(command)
        assert words is not None, line
        if before:
            ((echo, asked),) = before
            assert (echo, words[0]) == ("echo", "rank")
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(asked.encode())))
        capsys.readouterr()
        assert run(*(smaller(words) if words[0] == "train" else words)) == 0, line
        said[" ".join(words[: 1 + (words[0] == "prepare")])] = capsys.readouterr().out
    assert list(said) == ["prepare docids", "prepare pairs", "validate", "train", "rank"]
    assert "queries: 36; documents a query: 7 to 7" in said["validate"]
    assert "every docID is one token" not in said["validate"]
    results = json.loads(said["rank"])["results"]
    titles = {row["id"]: row["title"] for row in csv.DictReader((SHOP / "products.csv").open())}
    assert len(results) == 3
    assert all(row["text"] == titles[row["item_id"]] for row in results)
    assert {row["item_id"] for row in results} < set(json.loads(asked)["docs"])


def test_a_docid_of_one_token_is_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of names this short the small recipe's BPE learns every one as a token; a smaller one does not."""
    write_dataset(directory / "names")
    for words, told in (([], True), (["tokenizer.vocab_size=300"], False)):
        assert run("validate", str(directory / "names"), "recipe=wordnet_alpha2,small", *words) == 0
        assert ("every docID is one token" in capsys.readouterr().out) == told


def test_the_example_grades_products_by_the_words_they_share() -> None:
    titles = {row["id"]: row["title"] for row in csv.DictReader((SHOP / "products.csv").open())}
    ratings = list(csv.DictReader((SHOP / "ratings.csv").open()))
    assert (len(titles), len(ratings)) == (48, 280)
    for row in ratings:
        assert int(row["score"]) == len(set(row["query"].split()) & set(titles[row["product"]].split()))


def test_unknown_items_are_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rank", "checkpoint=runs/shop", "items=nowhere") == 2
    assert "there is no docID table nowhere; stoical prepare" in capsys.readouterr().err
    assert run(*(stoical_words(shop_commands()[0].split()) or [])) == 0
    table = DocIDTable.load("data/shop_items/items.parquet")
    for docs in ('["P99"]', '"P01"', '[{"docid": "P01"}]'):
        line = f'{{"query": "hose", "docs": {docs}}}'.encode()
        with pytest.raises(ValueError, match=r"file:1: .* is not an item of items=; with it, docs is a list of item"):
            list(rank_lines(SimpleNamespace(model=nn.Linear(1, 1)), [line], "file", items=table))
