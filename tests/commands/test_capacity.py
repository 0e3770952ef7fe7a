"""`stoical capacity output=DIR`: the quick study, from its tables to going on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stoical.studies.capacity import study
from stoical.studies.capacity.counts import orders
from stoical.studies.capacity.report import ceilings

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.paints
def test_the_quick_study(tmp_path: Path, cli: Cli) -> None:
    output = tmp_path / "study"
    code, out, err = cli("capacity", f"output={output}", "quick=true")
    assert code == 0, err
    rows = [*json.loads((output / "results.json").read_text())["cells"].values()]
    assert {row["part"] for row in rows} == set(study.PARTS)
    assert len(rows) == len([*study.cells(study.QUICK, study.PARTS)])
    for row in rows:
        if row["part"] == "ceilings":
            assert row["within_reach"] == orders(row["documents"], row["dimensions"], row["similarity"])
        if row["part"] == "lists":
            assert row["made"] == row["lists"]
    assert [row["right"] for row in rows if row["part"] == "ranker"] == [6]
    report = (output / "report.md").read_text()
    assert report in out
    assert report.count("\n## ") == 6
    for name in ("thresholds", "ceilings", "ranker", "limit"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_there_is_not_found_again(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"output={tmp_path / 'study'}", "quick=true", "parts=lists,limit"]
    assert cli("capacity", *words)[0] == 0
    path = tmp_path / "study" / "results.json"
    whole = json.loads(path.read_text())
    first, *_, last = whole["cells"]
    whole["cells"][first]["made"] = 7  # kept as it is
    gone = whole["cells"].pop(last)
    path.write_text(json.dumps(whole))
    made: list[str] = []
    original = study.write_whole
    monkeypatch.setattr(study, "write_whole", lambda path, text: (made.append(path.name), original(path, text)))
    assert cli("capacity", *words)[0] == 0
    again = json.loads(path.read_text())["cells"]
    assert (made, again[first]["made"]) == (["results.json"], 7)
    assert again[last]["critical_n"] == gone["critical_n"]


def test_a_study_made_otherwise_is_refused(tmp_path: Path, cli: Cli) -> None:
    words = [f"output={tmp_path / 'study'}", "parts=lists"]
    assert cli("capacity", *words, "quick=true")[0] == 0
    code, _, err = cli("capacity", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "is a study made otherwise (quick: True -> False, sizes.ceilings: 4 -> 7, " in err
    assert cli("capacity", "parts=,")[0] == 2


def test_damaged_results_are_one_line(tmp_path: Path, cli: Cli) -> None:
    words = [f"output={tmp_path / 'study'}", "quick=true", "parts=lists"]
    assert cli("capacity", *words)[0] == 0
    path = tmp_path / "study" / "results.json"
    whole = json.loads(path.read_text())
    ((name, row),) = whole["cells"].items()
    lacking = {key: value for key, value in row.items() if key != "seconds"}
    for cells in (
        None,
        [],
        {name: None},
        {name: {"part": "lists"}},
        {name: lacking},
        {name: {**row, "length": 9}},
        {"x": row},
    ):
        path.write_text(json.dumps({**whole, "cells": cells}))
        code, _, err = cli("capacity", *words)
        assert (code, err.count("\n")) == (2, 1), cells
        assert "results.json is damaged" in err
    path.write_text(json.dumps({**whole, "settings": None}))
    code, _, err = cli("capacity", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "is a study made otherwise" in err


def test_the_table_says_where_training_falls_short() -> None:
    row = {"documents": 4, "dimensions": 2, "similarity": "dot"}
    rows = [{**row, "seed": 0, "within_reach": 12, "trained": 12}, {**row, "seed": 1, "within_reach": 12, "trained": 9}]
    line = ceilings(rows).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("dot, 4", "2", "24", "12", "12", "9 to 12", "2, 1 of 2"),
    ]
