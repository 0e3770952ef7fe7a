"""Progress: lines where there is no terminal, and nothing of short work."""

from __future__ import annotations

import pytest

from stoical.common import progress as module
from stoical.common.progress import progress


def test_lines_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 1.0, 11.0, 12.0, 3_600.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    assert list(progress("abcd", "reading it")) == ["a", "b", "c", "d"]
    assert capsys.readouterr().err == "reading it: 1 of 4, 11 s\nreading it: 3 of 4, 3600 s\n"


def test_what_has_no_length_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    assert list(progress(iter("ab"), "reading it")) == ["a", "b"]
    assert capsys.readouterr().err == "reading it: 0, 0 s\nreading it: 1, 0 s\n"


def test_a_note_and_what_was_done_before_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    notes = iter(["a", "b"])
    assert list(progress(range(5, 7), "it", note=lambda: next(notes), first=5)) == [5, 6]
    assert capsys.readouterr().err == "it: 5 of 7, a, 0 s\nit: 6 of 7, b, 0 s\n"


def test_short_work_and_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress(range(1_000), "it")) == list(range(1_000))
    monkeypatch.setattr(module, "EVERY", 0.0)
    assert list(progress(range(9), "it", shown=False)) == list(range(9))
    assert capsys.readouterr() == ("", "")
