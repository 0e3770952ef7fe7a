"""stoical prepare chains: chains of hypernyms as plain text, with test nouns that training never shows."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.data.rows import RankingRow
from tests.support.commands import run

ROOT_OF_MAMMALS = (
    "mammal > vertebrate > chordate > animal > organism > living thing > whole > object > physical entity > entity"
)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, list[RankingRow]]:
    assert run("prepare", "chains", f"out={tmp_path / 'chains'}") == 0
    return {split: list(load_split(tmp_path / "chains", split)) for split in ("train", "test")}


def prompt_words(row: RankingRow) -> list[str]:
    """The noun, and its coordinate terms."""
    noun, _, terms = row.query.removesuffix(" :").partition(" ; ")
    return [noun, *filter(None, terms.split(" , "))]


def chain(row: RankingRow) -> list[str]:
    return row.docs[0].docid.split(" > ")


def test_a_row_by_hand(rows: dict[str, list[RankingRow]]) -> None:
    beagle = {row.query_id: row for split in rows.values() for row in split}["beagle.n.01"]
    assert chain(beagle)[:6] == ["hound", "hunting dog", "dog", "canine", "carnivore", "placental"]
    assert beagle.docs[0].docid.endswith(" > placental > " + ROOT_OF_MAMMALS)
    noun, *terms = prompt_words(beagle)
    assert noun == "beagle"
    hounds = {prompt_words(row)[0] for split in rows.values() for row in split if chain(row)[0] == "hound"}
    assert len(terms) == 2 and set(terms) < hounds - {"beagle"}


def test_test_nouns_are_nowhere_in_training_and_their_chains_join_it(rows: dict[str, list[RankingRow]]) -> None:
    seen = {word for row in rows["train"] for word in (*prompt_words(row), *chain(row))}
    ends = {tuple(chain(row)[start:]) for row in rows["train"] for start in range(len(chain(row)))}
    nouns = {prompt_words(row)[0] for row in rows["train"]}
    for row in rows["test"]:
        noun, *terms = prompt_words(row)
        assert noun not in seen
        assert set(terms) <= nouns
        assert tuple(chain(row)) in ends or not terms, "a chain of training, but for a few lone leaves"


def test_no_two_prompts_start_alike(rows: dict[str, list[RankingRow]]) -> None:
    nouns = [prompt_words(row)[0] for split in rows.values() for row in split]
    assert len(set(nouns)) == len(nouns) == 1147
    assert len(rows["test"]) == 200


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        assert run("prepare", "chains", f"out={tmp_path / name}", f"seed={seed}", "coordinates=0", "test_size=50") == 0
    one, two, three = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "three")
    )
    assert one == two
    assert one["test.parquet"] != three["test.parquet"]
    assert all(len(prompt_words(row)) == 1 for row in load_split(tmp_path / "one", "test"))
    assert load_manifest(tmp_path / "one")["options"] == {
        "subtree": "mammal.n.01", "coordinates": 0, "test_size": 50
    }  # fmt: skip


BAD = {
    "test_size=0": "test_size=0: must be at least 1",
    "coordinates=-1": "coordinates=-1: must be at least 0",
    "seed=-1": "seed=-1: must be from 0 to 4294967295",
    "subtree=mamal.n.01": "did you mean mammal.n.01?",
    "test_size=900": "leaves, so give less",
}


@pytest.mark.parametrize("word", BAD)
def test_a_bad_argument_is_one_line(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "chains", f"out={tmp_path / 'out'}", word) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert BAD[word] in error
    assert not (tmp_path / "out").exists()
