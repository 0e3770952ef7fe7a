"""Malformed inputs of all commands: one line or an answer, never a traceback, and no damage believed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.commands import run
from tests.support.malformed import KINDS, Case, Kind, Maker
from tests.support.malformed_runs import QUICK, RUNS
from tests.support.tiny_run import train_tiny

SAMPLE, ALL = range(60), range(60, 960)  # of 19 kinds of input, of which two are too slow for the sample


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("malformed")
    trained = train_tiny(folder)
    assert run("evaluate", f"checkpoint={trained}") == 0
    return Maker(folder)


def trouble(case: Case, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with how a command took its input, if anything."""
    capsys.readouterr()
    try:
        code = run(*case.words)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    said = capsys.readouterr().err.strip()
    if code not in (0, 2):
        return f"status {code}: {said}"
    if code == 2 and not (said.startswith("error: ") or case.words[0] == "validate"):
        return f"status 2 without an error: {said}"
    if code == 2 and "\n" in said and case.words[0] != "validate":
        return f"several lines: {said}"
    return "accepted" if case.wrong and code == 0 else None


def check(seeds: range, kinds: Sequence[Kind], maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for seed in seeds:
        case = maker.case(seed, kinds)
        if (what := trouble(case, capsys)) is not None:
            found[seed, case.kind, case.words] = what[:300]
    assert not found, "\n".join(f"{case}: {what}" for case, what in found.items())


def test_a_sample_of_malformed_inputs_is_one_line_each(maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    check(SAMPLE, (*KINDS, *QUICK), maker, capsys)


@pytest.mark.slow
def test_nine_hundred_malformed_inputs_are_one_line_each(maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    check(ALL, (*KINDS, *RUNS), maker, capsys)
