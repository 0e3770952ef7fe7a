"""`stoical mismatch`: a small study from the command line, its files, going on after a kill, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stoical.runs.lock import only_run
from stoical.studies.mismatch import compat
from stoical.studies.mismatch import run as run_module
from tests.support.commands import run

TINY = {
    "documents": 40,
    "vocabulary": 9,
    "length": 3,
    "methods": "MIXER",
    "compat.replications": 3,
    "compat.queries": 10,
    "compat.evaluated": 10,
    "compat.shortest_list": 4,
    "compat.longest_list": 6,
    "compat.epochs": 1,
    "compat.batch": 5,
    "exact.replications": 3,
    "exact.queries": 4,
    "exact.tested": 2,
    "exact.relevant": 4,
    "exact.steps": 3,
    "exact.batch": 2,
    "exact.hidden": 5,
    "exact.tuning": 2,
    "exact.variants": 2,
    "exact.lengths": "2,3",
}
FIGURES = ("figure1_compat", "figure2_compat", "figure1_exact", "figure2_exact", "mismatch_by_length", "methods")


def tiny(output: Path, **changes: str) -> list[str]:
    """A command line; `__` stands for the dot of a key."""
    words = TINY | {"output": output} | {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in words.items()]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("study") / "mismatch"
    assert run("mismatch", *tiny(output)) == 0
    return output


def test_report_results_and_figures_are_there(study: Path) -> None:
    report = (study / "report.md").read_text()
    assert "[0.0547]" in report  # the paper's numbers beside ours
    for setting in ("`compat.off_trie`", "`exact.generator`", "`documents`"):
        assert setting in report
    results = json.loads((study / "results.json").read_text())
    assert list(results["compat"]) == [*compat.METHODS, "chance", "modal token"]
    assert list(results["exact"])[:4] == ["chance", "modal token", "oracle", "teacher forcing"]
    assert "MIXER" in results["exact"]
    assert len(results["variants"]) == 5  # two generators, two kinds of parameters, one more length
    assert results["seconds"] > 0
    for name in FIGURES:
        assert (study / f"{name}.png").stat().st_size > 10_000
        assert f"({name}.png)" in report


def test_it_goes_on_with_what_is_missing(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (study / "report.md").read_text()
    parts = sorted((study / "parts").glob("*.json"))
    lost = next(path for path in parts if "MIXER" in path.name and "tuning" not in path.name)
    kept = {path: path.stat().st_mtime_ns for path in parts if path != lost}
    lost.unlink()
    monkeypatch.setattr(compat, "simulate", no_work)
    monkeypatch.setattr(run_module, "tune", no_work)
    assert run("mismatch", *tiny(study)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert table_of((study / "report.md").read_text()) == table_of(before)


def no_work(*_: object) -> None:
    raise AssertionError("this part was there")


def table_of(report: str) -> list[str]:
    """The lines of tables: all but the minutes."""
    return [line for line in report.splitlines() if line.startswith("|")]


def test_one_block_or_another_method_goes_into_the_same_directory(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mismatch", *tiny(study, blocks="1")) == 0
    assert "Block 2" not in capsys.readouterr().out
    assert run("mismatch", *tiny(study, methods="margin")) == 0
    assert "| margin" in (study / "report.md").read_text()


REFUSED = {
    "methods=MIXR": "method 'MIXR'",
    "blocks=3": "blocks=3 must be 1, 2 or 1,2",
    "seed=-1": "seed=-1 must lie between 0 and",
    "documents=1": "documents=1 must be at least 2",
    "vocabulary=1": "vocabulary=1 must be",
    "vocabulary=3": "documents=40 need more docIDs than vocabulary=3 makes of 3 tokens",
    "length=0": "length=0 must be",
    "compat.replications=1": "compat.replications=1 must be",
    "compat.queries=7": "compat.queries=7 must be a multiple of compat.batch=5",
    "compat.evaluated=11": "compat.evaluated=11 must not exceed compat.queries=10",
    "compat.longest_list=3": "compat.longest_list=3 must lie between compat.shortest_list=4 and documents=40",
    "compat.longest_list=41": "compat.longest_list=41 must lie between",
    "compat.beta=-1": "compat.beta=-1.0 must be a finite number",
    "compat.minimum=2": "compat.minimum=2.0 must lie between 0 and 1",
    "compat.learning_rate=0": "compat.learning_rate=0.0 must be a finite number above 0",
    "compat.consistency_weight=inf": "compat.consistency_weight=inf must be",
    "compat.off_trie=none": "compat.off_trie",
    "compat.model=recurrent compat.init_scale=0.1": "compat.init_scale=0.1 has no effect with compat.model=recurrent",
    "compat.epochs=0": "compat.epochs=0 must be",
    "exact.replications=1": "exact.replications=1 must be",
    "exact.relevant=39": "exact.relevant=39 and exact.negatives=4 are more than documents=40",
    "exact.queries=5": "exact.queries=5 must be a multiple of exact.batch=2",
    "exact.beta=0.5": "exact.beta=0.5 must be a finite number of at least 1",
    "exact.noise=-1": "exact.noise=-1.0 must be",
    "exact.lengths=2,x": "exact.lengths=2,x must be whole numbers",
    "exact.lengths=1": "makes of 1 tokens",
    "exact.generator=kmeans": "exact.generator",
    "exact.tuning=1": "exact.tuning=1 must be",
    "exact.hiden=3": "Did you mean 'exact.hidden'?",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_out_of_range_is_refused_in_one_line(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mismatch", *tiny(tmp_path / "x", **dict(word.split("=") for word in words.split()))) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert REFUSED[words] in said
    assert not (tmp_path / "x").exists()


def test_directories_of_something_else_are_refused(
    tmp_path: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert run("mismatch", *tiny(tmp_path / "mine")) == 2
    assert "mine holds something else than a mismatch study; give another directory" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert run("mismatch", *tiny(study, exact__steps="4")) == 2
    assert "is a study with exact.steps=3, not 4; give another directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert run("mismatch", *tiny(tmp_path / "file")) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", [{}, {"values": {}}, {"values": None, "seconds": 1.0}])
def test_a_damaged_part_is_named(study: Path, tmp_path: Path, content: object, capsys) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "copy"))
    part = next(path for path in sorted((copy / "parts").glob("*.json")) if "block_1" in path.name)
    part.write_text(json.dumps(content))
    assert run("mismatch", *tiny(copy, blocks="1")) == 2
    said = capsys.readouterr().err
    assert f"{part} is damaged; delete it" in said
    assert said.count("\n") == 1


def test_a_second_study_into_the_same_directory_is_refused(study: Path, capsys) -> None:
    with only_run(study):
        assert run("mismatch", *tiny(study)) == 2
    assert "another run is writing to" in capsys.readouterr().err


def test_quick_leaves_what_is_given() -> None:
    from stoical.studies.mismatch.settings import MismatchSettings, quickened

    settings = MismatchSettings(quick=True, documents=77)
    quick = quickened(settings, {"quick", "documents"})
    assert (quick.documents, quick.compat.replications, quick.exact.steps) == (77, 4, 10)
    assert quickened(MismatchSettings(), set()) == MismatchSettings()


@pytest.mark.slow
def test_the_quick_study_runs_whole(tmp_path: Path) -> None:
    assert run("mismatch", "quick=true", f"output={tmp_path / 'x'}") == 0
