"""The directory of an evaluation: it appears whole or not at all, is never mixed, and damage is named in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot as plt

from stoical.evaluation.generation_metrics import compare_texts
from stoical.evaluation.order_sensitivity import order_sensitivity
from stoical.evaluation.result import EvaluatedData, Evaluation
from stoical.reporting import report
from stoical.reporting.compare import compare_runs, load_run
from stoical.reporting.evaluation_dir import FILES, check_replaceable, read_evaluation
from stoical.reporting.report import write_report
from tests.support.small_rows import make_evaluation

MAMMAL, BIRD = EvaluatedData("mammal", "test", "ab" * 32), EvaluatedData("bird", "test", "cd" * 32)
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_figures(monkeypatch)


def leave_out_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures and no resampling: they are tested elsewhere, and take a second."""
    monkeypatch.setattr(report, "metric_intervals", lambda rows, names: {name: [0.0, 1.0] for name in names})
    for name in ("plot_metrics", "plot_rank_map", "plot_ndcg_breakdown", "plot_valid_mass"):
        monkeypatch.setattr(report, name, lambda *arguments: arguments[-1].write_bytes(b"x"))


def evaluation(seed: int = 0, data: EvaluatedData | None = MAMMAL, **others: Any) -> Evaluation:
    return replace(make_evaluation(queries=8, seed=seed), data=data, **others)


def found(directory: Path) -> str:
    """The one name that all files of a directory speak of, after its metrics and rows were read and found to agree."""
    read_evaluation(directory, "...")
    names = {line.split(" ")[5].split("-")[0] for line in (directory / "run.txt").read_text().splitlines()}
    names.add((directory / "summary.md").read_text().splitlines()[0].split(" ")[1])
    (name,) = names
    return name


def forked(work: Callable[[], object]) -> int:
    """Do it in a process of its own; its exit code."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(place: int, work: Callable[[], object]) -> bool:
    """Do it in a process that ends without a word before it touches the disk for the `place`-th time; False if never.

    What is opened, made, moved or removed counts, in Python's own order of it.
    """
    touched = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touched
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}:
            touched += 1
            if touched == place:
                os._exit(9)

    return forked(lambda: (sys.addaudithook(hook), work())) == 9


@pytest.mark.usefixtures("no_figures")
def test_killed_anywhere_it_is_the_old_evaluation_or_the_new_one(tmp_path: Path) -> None:
    directory, seen = tmp_path / "run" / "eval", []
    for place in range(1, 200):
        write_report(evaluation(), directory, "old")
        killed = killed_at(place, lambda: write_report(evaluation(1), directory, "new"))
        seen.append(found(directory))
        if not killed:
            break
        write_report(evaluation(2), directory, "next")
        assert found(directory) == "next"
        assert [path.name for path in directory.parent.iterdir()] == ["eval"], "nothing is left beside it"
    assert seen.count("old") > 10
    assert seen == sorted(seen, reverse=True), "old up to one point, new from there"
    assert seen[-1] == "new"


@pytest.mark.usefixtures("no_figures")
def test_what_a_kill_had_moved_away_is_put_back_by_who_reads_it(tmp_path: Path, cli: Cli) -> None:
    for name in ("one", "two"):
        write_report(evaluation(len(name)), tmp_path / name / "eval", name)
    (tmp_path / "one" / "eval").rename(tmp_path / "one" / ".eval.old-7")
    status, out, _ = cli("compare", str(tmp_path / "one"), str(tmp_path / "two"))
    assert status == 0
    assert "| two − one" in out
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["eval"]


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(evaluation(), tmp_path / "eval", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "plot_rank_map", full)
    said = r"eval cannot be written: \[Errno 28\] No space left on device \(.* MiB are free there\); what was there"
    with pytest.raises(ValueError, match=said):
        write_report(evaluation(1), tmp_path / "eval", "new")
    assert found(tmp_path / "eval") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["eval"]


@pytest.mark.usefixtures("no_figures")
def test_files_of_an_earlier_evaluation_go_and_those_of_the_user_are_not_touched(tmp_path: Path) -> None:
    write_report(evaluation(), tmp_path / "eval", "old")
    for name in ("diagnostics.json", "mismatch.png", "generation.json"):
        (tmp_path / "eval" / name).write_text("old")
    write_report(evaluation(1), tmp_path / "eval", "new")
    assert {path.name for path in (tmp_path / "eval").iterdir()} < FILES
    assert not {"diagnostics.json", "mismatch.png", "generation.json"} & {p.name for p in (tmp_path / "eval").iterdir()}
    (tmp_path / "eval" / "notes.md").write_text("mine")
    for write in (lambda: write_report(evaluation(2), tmp_path / "eval", "next"), lambda: check(tmp_path / "eval")):
        with pytest.raises(ValueError, match=r"eval holds what an evaluation does not write \(notes.md\), which rep"):
            write()
    assert (tmp_path / "eval" / "notes.md").read_text() == "mine"
    assert found(tmp_path / "eval") == "new"


def check(directory: Path, data: EvaluatedData | None = MAMMAL) -> None:
    check_replaceable(directory, data)


def test_a_run_with_checkpoints_is_not_replaced(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / "run" / f"checkpoint-{number}").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"checkpoint-0, checkpoint-1, checkpoint-2, checkpoint-3, checkpoint-4, \.\.\."
    ):
        check(tmp_path / "run")
    (tmp_path / "kept" / "metrics.json").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"does not write \(metrics.json\)"):
        check(tmp_path / "kept")


def test_what_cannot_be_replaced_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"\. is the directory you are in, .*: give output=.*/eval"):
        check(Path())
    with pytest.raises(ValueError, match=r"/proc is a mount point"):
        check(Path("/proc"))
    Path("it").write_text("")
    for path in ("it", "it/below/eval"):
        with pytest.raises(ValueError, match="is not a directory that can be written to"):
            check(Path(path))
    check(Path("not/yet/there"))


@pytest.mark.usefixtures("no_figures")
def test_an_evaluation_on_other_data_is_not_replaced(tmp_path: Path) -> None:
    write_report(evaluation(), tmp_path / "eval", "old")
    said = r"eval holds an evaluation on mammal/test \(SHA-256 abab.*\), and this one is on bird/test \(SHA-256 cdcd"
    with pytest.raises(ValueError, match=said):
        write_report(evaluation(1, BIRD), tmp_path / "eval", "new")
    with pytest.raises(ValueError, match=r"mammal/test \(SHA-256 ab.*, and this one is on mammal/test \(SHA-256 ef"):
        check(tmp_path / "eval", replace(MAMMAL, sha256="ef" * 32))
    check(tmp_path / "eval", replace(BIRD, sha256=MAMMAL.sha256))
    for damaged in ("null", "{", '{"data": 7}', '{"data": {"name": 1}}', "{}"):
        (tmp_path / "eval" / "metrics.json").write_text(damaged)
        check(tmp_path / "eval", BIRD)


@pytest.mark.paints
def test_the_data_are_named_wherever_the_evaluation_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    texts = compare_texts([5, 6], [5, 2]) | {"forced_hits": [True, False], "nll": 1.5, "target": "", "text": ""}
    kinds = ("teacher_forced", "gold", "free_running", "common", "unconstrained")
    own = {kind: {key: [1.0, 0.5] for key in ("prefixes", "kl", "valid", "distance")} for kind in kinds}
    whole = evaluation()
    rows = [
        replace(row, generation=texts, diagnostics=own, logprobs=[-1.0 - place for place in range(row.num_listed)])
        for row in whole.rows
    ]
    order = order_sensitivity([whole, whole])
    metrics = write_report(
        replace(whole, rows=rows, order=order), tmp_path / "run" / "eval", r"$\alfa|2$", report.TargetSettings()
    )
    monkeypatch.undo()
    titles = [figure._suptitle or figure.axes[0].title for figure in drawn]
    assert len(drawn) == len(report.FIGURES) + 2
    assert all(title.get_text().startswith(r"$\alfa|2$ on mammal/test") for title in titles)
    for figure in drawn:
        plt.close(figure)
    assert metrics["data"] == {"name": "mammal", "split": "test", "sha256": MAMMAL.sha256}
    summary = (tmp_path / "run" / "eval" / "summary.md").read_text()
    assert summary.startswith("# $\\alfa|2$ on mammal/test\n")
    assert f"- Data: mammal/test, SHA-256 {MAMMAL.sha256}." in summary
    assert report.results_table("alpha", metrics).startswith("| mammal/test ")
    assert {path.name for path in (tmp_path / "run" / "eval").iterdir()} == FILES
    runs = [load_run(str(tmp_path / "run"))] * 2
    assert compare_runs(runs).startswith("| mammal/test ")
    assert "\n| $\\alfa\\|2$ " in report.results_table(r"$\alfa|2$", metrics), "a name ends no cell"


def test_the_summary_says_which_ndcg_it_is(tmp_path: Path) -> None:
    write_report(evaluation(), tmp_path / "eval", "alpha")
    (line,) = [line for line in (tmp_path / "eval" / "summary.md").read_text().splitlines() if "- nDCG" in line]
    assert "gains log(n + 2 − r)" in line
    assert "ir_measures and trec_eval find another value in run.txt and qrels.txt" in line
    assert "docs/evaluation.md" in line


@pytest.mark.usefixtures("no_figures")
def test_runs_on_different_data_are_not_compared(tmp_path: Path, cli: Cli) -> None:
    """Not even where queries, documents and the name are the same."""
    other = replace(MAMMAL, sha256="ef" * 32)
    for name, data in (("one", MAMMAL), ("two", BIRD), ("three", other), ("four", None), ("five", MAMMAL)):
        write_report(evaluation(len(name), data), tmp_path / name / "eval", name)
    one, two, three, four, five = (str(tmp_path / name) for name in ("one", "two", "three", "four", "five"))
    for theirs, said in (
        (two, "bird/test (SHA-256 cdcdcdcdcdcd...)"),
        (three, "mammal/test (SHA-256 efefefefefef...)"),
        (four, "data without a name"),
    ):
        status, out, err = cli("compare", one, five, theirs)
        assert (status, out) == (2, "")
        assert f"{one}/eval was evaluated on mammal/test (SHA-256 abababababab...), and {theirs}/eval on {said}" in err
    assert cli("compare", one, five)[0] == 0


@pytest.mark.usefixtures("no_figures")
def test_files_of_two_evaluations_are_not_read_as_one(tmp_path: Path, cli: Cli) -> None:
    for name in ("one", "two"):
        write_report(evaluation(len(name)), tmp_path / name / "eval", name)
    write_report(evaluation(7), tmp_path / "later" / "eval", "later")
    for file in ("metrics.json", "per_query.jsonl"):
        kept = (tmp_path / "one" / "eval" / file).read_bytes()
        (tmp_path / "one" / "eval" / file).write_bytes((tmp_path / "later" / "eval" / file).read_bytes())
        status, out, err = cli("compare", str(tmp_path / "one"), str(tmp_path / "two"))
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"{tmp_path}/one/eval/per_query.jsonl is not the file that {tmp_path}/one/eval/metrics.json was" in err
        (tmp_path / "one" / "eval" / file).write_bytes(kept)


DEEP = "[" * 100_000
ROW = evaluation().rows[0].to_json()
METRICS = {
    "null": "is not a JSON object",
    "[]": "is not a JSON object",
    "7": "is not a JSON object",
    "": "is not JSON",
    '{"num_queries": ': "is not JSON",
    DEEP: "is not JSON",
    "\udcff": "is not JSON",
    "9" * 5000: "is not JSON",
    r'{"mode": "\ud800"}': "is not JSON",
    "{}": "lacks count_terminator, data",
}
VALUES = {
    "num_queries": ["8", -1, 8.5, None, True, [], 10**400],
    "mode": [None, 7, []],
    "terminator": [None, {}],
    "count_terminator": ["yes", 1],
    "data": [7, [], {"name": "x"}, {"name": 1, "split": "test", "sha256": "x"}],
    "per_query_sha256": [None, 7],
    "ndcg": ["high", None, float("nan"), True, [], 10**400],
    "recall@1": ["high", {}],
    "recall@x": [0.5],
    "recall@": [0.5],
    "recall@0": [0.5],
    "recall@" + "9" * 5000: [0.5],
    "num_beams": [None, "five", -1],
}
LINES = {
    "query_id": [7, None, []],
    "mode": ["greedy", None, 7, []],
    "docids": [None, "abc", [7] * len(ROW["docids"]), [], {}],
    "ranks": [None, "123", [1.5] * len(ROW["docids"]), [1], [10**400] * len(ROW["docids"])],
    "scores": [None, ["x"] * len(ROW["docids"]), [1.0], [float("nan")] * len(ROW["docids"]), [[]] * len(ROW["docids"])],
    "docid_tokens": [None, [True] * len(ROW["docids"]), [1]],
    "num_negatives": [None, -1, len(ROW["docids"]), "1"],
    "dropped_docs": ["1", 1.5],
    "near_ties": [None],
    "valid_mass_by_step": [7, ["x"]],
    "diagnostics": [7, {"gold": 7}, {"gold": {"kl": 7}}],
    "generation": [7, {}, {"target": "x"}],
    "ndcg": ["high", None, {}, float("inf")],
    "note": ["mine"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_figures(monkeypatch)
        for name in ("one", "two"):
            write_report(evaluation(len(name)), directory / name / "eval", name)
    return directory


def refused(whole: Path, cli: Cli, file: str, content: bytes | str) -> str:
    """What `stoical compare` says of a damaged file: one line that names the file, and no traceback."""
    path = whole / "one" / "eval" / file
    kept = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    try:
        status, out, err = cli("compare", str(whole / "one"), str(whole / "two"))
    finally:
        path.write_bytes(kept)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{path}" in err
    assert len(err) < 2000
    return err


@pytest.mark.parametrize("content", METRICS, ids=range(len(METRICS)))
def test_damaged_metrics_are_named(content: str, whole: Path, cli: Cli) -> None:
    assert f"metrics.json {METRICS[content]}" in refused(whole, cli, "metrics.json", content)


@pytest.mark.parametrize("key", VALUES, ids=lambda key: key[:20])
def test_odd_values_of_metrics_are_named(key: str, whole: Path, cli: Cli) -> None:
    metrics = json.loads((whole / "one" / "eval" / "metrics.json").read_text())
    for value in VALUES[key]:
        assert key[:12] in refused(whole, cli, "metrics.json", json.dumps(metrics | {key: value}))
    if key in metrics and "@" not in key and key != "ndcg":
        del metrics[key]
        assert key in refused(whole, cli, "metrics.json", json.dumps(metrics))


@pytest.mark.parametrize("key", LINES)
def test_odd_values_of_a_query_are_named_with_their_line(key: str, whole: Path, cli: Cli) -> None:
    lines = (whole / "one" / "eval" / "per_query.jsonl").read_text().splitlines()
    for value in LINES[key]:
        changed = json.dumps(json.loads(lines[0]) | {key: value})
        said = refused(whole, cli, "per_query.jsonl", "\n".join([lines[1], lines[2], changed, ""]))
        assert "per_query.jsonl:3 has" in said


def test_a_file_that_was_cut_is_named_with_its_line(whole: Path, cli: Cli) -> None:
    content = (whole / "one" / "eval" / "per_query.jsonl").read_bytes()
    second = content.index(b"\n") + 1
    for cut, said in (
        (content[:-20], "per_query.jsonl:8 is not JSON"),
        (content[:-1], "is not the file that"),
        (content[:second], "holds 1 queries in 1 lines, and "),
        (content[: second + 1], "per_query.jsonl:2 is not JSON"),
        (b"", "holds 0 queries in 0 lines"),
        (content + content[:second], "holds 8 queries in 9 lines"),
        (content[second:] + content[second : content.index(b"\n", second) + 1], "holds 7 queries in 8 lines"),
        (content.replace(b'"q7"', rb'"\ud800"'), "per_query.jsonl:8 is not JSON"),
        (content.replace(b"q7", b"\xff\xfe"), "per_query.jsonl:8 is not JSON"),
        (content + b"\n", "per_query.jsonl:9 is not JSON"),
        (content + b"null\n", "per_query.jsonl:9 is not a JSON object"),
        (content[:second] + DEEP.encode(), "per_query.jsonl:2 is not JSON"),
    ):
        assert said in refused(whole, cli, "per_query.jsonl", cut)
