"""The README's way from a user's own file to ranked results: its commands run as they stand, only smaller."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from accelerate.state import AcceleratorState, GradientState

from data_prep import docids
from data_prep.importers import pairs as from_pairs
from stoical import ranker
from stoical.commands import train
from stoical.data import validation as validate
from tests.support.documents import commands
from tests.support.root import ROOT
from tests.support.small_data import TINY, write_dataset

SHOP = ROOT / "examples" / "shop"


def shop_commands() -> list[str]:
    return [line for line in commands("README.md") if "shop" in line]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples in it, and a process as fresh as a command's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
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
    to_docids, importing, checking, training, ranking = map(shlex.split, shop_commands())
    assert to_docids[:3] == ["python", "-m", "data_prep.docids"]
    assert docids.main(to_docids[3:]) == 0
    assert importing[:3] == ["python", "-m", "data_prep.from_pairs"]
    assert from_pairs.main(importing[3:]) == 0
    assert checking[:3] == ["python", "-m", "stoical.data"]
    capsys.readouterr()
    assert validate.main(checking[3:]) == 0
    told = capsys.readouterr().out
    assert "queries: 36; documents a query: 7 to 7" in told
    assert "every docID is one token" not in told
    assert training[:2] == ["python", "train.py"]
    train.main(smaller(training[2:]))
    echo, line, pipe, *command = ranking
    assert (echo, pipe, command[:3]) == ("echo", "|", ["python", "-m", "stoical.ranker"])
    capsys.readouterr()
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(line.encode())))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=output))
    ranker.main(command[3:])
    results = json.loads(output.getvalue())["results"]
    titles = {row["id"]: row["title"] for row in csv.DictReader((SHOP / "products.csv").open())}
    assert len(results) == 3
    assert all(row["text"] == titles[row["item_id"]] for row in results)
    assert {row["item_id"] for row in results} < set(json.loads(line)["docs"])


def test_a_docid_of_one_token_is_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of names this short the small recipe's BPE learns every one as a token; a smaller one does not."""
    write_dataset(directory / "names")
    for words, told in (([], True), (["tokenizer.vocab_size=300"], False)):
        assert validate.main(["validate", str(directory / "names"), "recipe=wordnet_alpha2,small", *words]) == 0
        assert ("every docID is one token" in capsys.readouterr().out) == told


def test_the_example_grades_products_by_the_words_they_share() -> None:
    titles = {row["id"]: row["title"] for row in csv.DictReader((SHOP / "products.csv").open())}
    ratings = list(csv.DictReader((SHOP / "ratings.csv").open()))
    assert (len(titles), len(ratings)) == (48, 280)
    for row in ratings:
        assert int(row["score"]) == len(set(row["query"].split()) & set(titles[row["product"]].split()))


def test_unknown_items_are_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=re.escape("there is no docID table nowhere; data_prep writes items.parquet")):
        ranker.main(["checkpoint=runs/shop", "items=nowhere"])
    assert docids.main(shlex.split(shop_commands()[0])[3:]) == 0
    table = ranker.DocIDTable.load("data/shop_items/items.parquet")
    for docs in ('["P99"]', '"P01"', '[{"docid": "P01"}]'):
        line = f'{{"query": "hose", "docs": {docs}}}'.encode()
        with pytest.raises(ValueError, match=r"file:1: .* is no item of items=; with it, docs is a list of item ids"):
            list(ranker.rank_lines(None, [line], "file", items=table))
