"""Data sets that importers wrote, as tests look at them, and inputs for importers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.data.rows import RankingRow
from tests.support.commands import run


def write(path: Path, content: str | list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content)
    path.write_text(lines)
    return path


def lists(out: Path) -> dict[str, tuple[dict[str, int], list[str]]]:
    """Query id to (docID to rank, negatives), over both splits."""
    rows: list[RankingRow] = [*load_split(out, "train"), *load_split(out, "test")]
    return {
        row.query_id: (
            {doc.docid: rank for doc, rank in zip(row.docs, row.ranks, strict=True)},
            [negative.docid for negative in row.negatives],
        )
        for row in rows
    }


def dropped(out: Path) -> list[tuple[str, str, str]]:
    found = [(row["reason"], row["where"], row["text"]) for row in pq.read_table(out / "dropped.parquet").to_pylist()]
    assert sum(each["rows"] for each in load_manifest(out)["dropped"].values()) == len(found)
    return found


def refused(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> str:
    """The one line that the command says, and that it writes nothing."""
    out = next((word.removeprefix("out=") for word in words if word.startswith("out=")), "data/mine")
    capsys.readouterr()
    assert run("prepare", name, *words) == 2
    assert not Path(out).exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error
