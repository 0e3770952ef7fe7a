"""A disk without room: one line that names what could not be written, and nothing is left in its place."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stoical.preferences.pairs import Pair, as_dataset
from stoical.preferences.run import keep_pairs, kept_pairs
from stoical.self_training.rows_file import write_generated
from stoical.soft_prompts.export import save_prompt
from tests.support.commands import run
from tests.support.tiny_frozen import tiny_frozen
from tests.support.tiny_run import train_tiny


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Files end at so many bytes, with an error of the operating system's as of a full disk.

    Modules that are first imported in here leave no bytecode: Python would cut it short and read it later.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = writes_none


def refused(capsys: pytest.CaptureFixture[str], size: int, *words: str) -> str:
    """What a command says that finds room for so many bytes a file; one line."""
    capsys.readouterr()
    with no_file_above(size):
        assert run(*words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "cannot be written" in said and "MiB are free there" in said
    return said


def test_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = train_tiny(tmp_path) / "checkpoint-3", tmp_path / "out"
    assert f"{out} cannot" in refused(capsys, 4096, "export", f"checkpoint={checkpoint}", f"output={out}")
    assert not out.exists()


def test_a_soft_prompt(tmp_path: Path) -> None:
    frozen = tiny_frozen()
    with no_file_above(4096), pytest.raises(ValueError, match=f"{tmp_path / 'prompt'} cannot be written"):
        save_prompt(frozen, torch.zeros(64, frozen.width), tmp_path / "prompt", {})


def test_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"query": f"q{place}", "document": f"d{place}", "score": 1} for place in range(99)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    words = ["prepare", "pairs", f"input={tmp_path / 'pairs.jsonl'}", f"out={out}"]
    assert f"{out} cannot" in refused(capsys, 256, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_pairs_and_generated_rows(tmp_path: Path) -> None:
    keep_pairs(as_dataset([Pair("q", [1], [2], [3])]), {"seed": 0}, tmp_path)
    with no_file_above(256):
        with pytest.raises(ValueError, match=r"pairs\.parquet\.new cannot be written"):
            keep_pairs(as_dataset([Pair("q", [1], [4], [5])]), {"seed": 0}, tmp_path)
        with pytest.raises(ValueError, match=r"generated\.parquet\.new cannot be written"):
            write_generated(tmp_path, [], {"made_from": {"method": "bash"}})
    kept = kept_pairs(tmp_path)
    assert kept is not None
    assert kept[0][0]["chosen_ids"] == [2]
