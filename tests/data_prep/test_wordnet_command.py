"""stoical prepare wordnet: what it writes and replaces, and how it takes its arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from data_prep.wordnet.hypernyms import WordNetOptions
from stoical.common.arguments import parse_options
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from tests.support.commands import run
from tests.support.root import ROOT


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def mammals(out: Path, *arguments: str) -> int:
    return run("prepare", "wordnet", f"out={out}", "subtree=mammal.n.01", "test_size=100", *arguments)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        assert mammals(tmp_path / name, f"seed={seed}") == 0
    assert contents(tmp_path / "one").keys() == {"train.parquet", "test.parquet", "manifest.json", "LICENSE"}
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one")["test.parquet"] != contents(tmp_path / "three")["test.parquet"]


def test_several_negatives_or_none(tmp_path: Path) -> None:
    assert mammals(tmp_path / "out", "negatives=3") == 0
    assert all(len({doc.docid for doc in row.negatives}) == 3 for row in load_split(tmp_path / "out", "test"))
    assert mammals(tmp_path / "out", "negatives=0") == 0
    assert not any(row.negatives for row in load_split(tmp_path / "out", "test"))


def test_only_its_own_dataset_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert mammals(out) == 0, "an empty directory is free"
    assert mammals(out, "seed=1") == 0
    assert load_manifest(out)["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left beside it"

    def refused(message: str) -> None:
        before = contents(out)
        capsys.readouterr()
        assert mammals(out) == 2
        assert message in capsys.readouterr().err
        assert contents(out) == before

    (out / "notes.txt").write_text("mine")
    refused("holds files of your own (notes.txt)")
    (out / "notes.txt").unlink()
    manifest = load_manifest(out)
    (out / "manifest.json").write_text(json.dumps({**manifest, "tool": "mine"}))
    refused("holds a dataset that stoical prepare wordnet did not make")
    (out / "manifest.json").unlink()
    refused("holds something that is not a dataset")


def test_a_build_that_fails_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mammals(tmp_path / "out") == 0
    before = contents(tmp_path / "out")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    assert mammals(tmp_path / "out", "seed=1") == 2
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# The command line


def test_arguments_are_typed() -> None:
    options = parse_options(WordNetOptions, {"seed": "3", "download": "true", "path": "longest", "out": "a=b"})
    assert options == WordNetOptions(seed=3, download=True, path="longest", out="a=b")


BAD_ARGUMENTS = {
    "seeed=1": "option 'seeed' does not exist. Did you mean 'seed'? --help explains every option.",
    "seed=x": "seed: Value 'x' of type 'str' could not be converted to Integer",
    "seed=1.5": "could not be converted to Integer",
    "seed=-1": "seed=-1: must be from 0 to 4294967295",
    "seed": "'seed': arguments are key=value",
    "seed.a=1": "option 'seed.a' does not exist. Did you mean 'seed'?",
    "path=first": "expected one of ['primary', 'longest', 'shortest']",
    "source=web": "expected one of ['bundled', 'nltk']",
    "download=true": "download=true has no effect with source=bundled",
    "test_size=0": "test_size=0: must be at least 1",
    "negatives=-1": "negatives=-1: must be at least 0",
    "subtree=mamal.n.01": "did you mean mammal.n.01?",
    "out={": "out={: ",
    "out=": "out= says nothing; give it a value",
    "seed=1 seed=2": "seed is given twice",
    "subtree=mammal.n.01": "test_size=5000: there are 1175 queries, so give less",
    "subtree=mammal.n.01 test_size=1175": "test_size=1175: there are 1175 queries, so give less",
}


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.items(), ids=BAD_ARGUMENTS)
def test_a_bad_argument_is_one_line_and_code_2(
    arguments: str, message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prepare", "wordnet", *arguments.split()) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not list(in_tmp.iterdir())


def test_a_file_as_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert run("prepare", "wordnet", f"out={tmp_path}/file") == 2
    assert "file is a file; give a directory" in capsys.readouterr().err


def test_the_module_runs_and_its_help_explains_every_option() -> None:
    command = [sys.executable, "-m", "data_prep.wordnet"]
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for option in fields(WordNetOptions):
        assert f"\n  {option.name}=" in shown
        assert " ".join(option.metadata["help"].split()) in " ".join(shown.split())
    failed = subprocess.run([*command, "sede=1"], cwd=ROOT, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: option 'sede' does not exist. Did you mean 'seed'?")
