"""stoical/reporting: tables, what an evaluation writes, and curves of metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from matplotlib import pyplot as plt

from stoical.evaluation.result import Evaluation, QueryResult, References
from stoical.reporting.compare import compare_runs, load_run
from stoical.reporting.curves import plot_curves, read_curve
from stoical.reporting.report import FIGURES, metrics_file, results_table, write_report
from stoical.reporting.tables import markdown, meaning, metrics_table
from tests.support.small_rows import make_evaluation, result

FULL = {
    "num_queries": 5000,
    "dropped_docs": 3,
    "recall@10": 0.5,
    "recall@2": 0.9774,
    "ndcg": 0.99834,
    "recall@1": 1.0,
    "cvr": 0.0,
    "valid_mass": 0.7,
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_columns_are_in_the_papers_order_and_in_per_cent() -> None:
    header, rule, row = metrics_table([("alpha = 2", FULL)]).splitlines()
    assert cells(header) == ["", "CVR (↓)", "nDCG (↑)", "R@1 (↑)", "R@2 (↑)", "R@10 (↑)", "queries"]
    assert cells(row) == ["alpha = 2", "0.00", "99.83", "100.00", "97.74", "50.00", "5000"]
    assert set(rule) == set("|-:")


def test_a_metric_that_a_row_lacks_is_an_en_dash() -> None:
    table = metrics_table([("with", FULL), ("without", {"num_queries": 7, "ndcg": 0.5, "recall@5": 0.25})])
    header, _, one, other = table.splitlines()
    assert cells(header)[3:] == ["R@1 (↑)", "R@2 (↑)", "R@5 (↑)", "R@10 (↑)", "queries"]
    assert cells(one) == ["with", "0.00", "99.83", "100.00", "97.74", "\N{EN DASH}", "50.00", "5000"]
    assert cells(other) == ["without", "\N{EN DASH}", "50.00", *["\N{EN DASH}"] * 2, "25.00", "\N{EN DASH}", "7"]


def test_a_column_that_no_row_has_is_left_out() -> None:
    header = metrics_table([("esci", {"num_queries": 310, "ndcg": 0.9, "recall@1": 0.1})]).splitlines()[0]
    assert cells(header) == ["", "nDCG (↑)", "R@1 (↑)", "queries"]


def test_a_table_is_padded_to_read_as_text() -> None:
    lines = markdown([["name", "x"], ["a", "1.00"], ["longer", "10.00"]]).splitlines()
    assert lines == [
        "| name   |     x |",
        "|--------|------:|",
        "| a      |  1.00 |",
        "| longer | 10.00 |",
    ]


def write_log(directory: Path, *records: dict[str, float], data: str = "data/mammal") -> Path:
    directory.mkdir(parents=True)
    (directory / "recipe.yaml").write_text(f"data:\n  path: {data}\n")
    path = directory / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_curve_is_one_metric_by_step(tmp_path: Path) -> None:
    path = write_log(
        tmp_path / "run",
        {"step": 10, "loss": 3.0},
        {"step": 20, "eval_cvr": 0.5, "eval_ndcg": 0.75},
        {"step": 30, "loss": 2.0},
        {"step": 40, "eval_cvr": 0.25, "eval_ndcg": 1},
    )
    assert read_curve(path, "eval_cvr") == ([20, 40], [0.5, 0.25])
    assert read_curve(path, "loss") == ([10, 30], [3.0, 2.0])
    assert read_curve(path, "eval_recall@1") == ([], [])


@pytest.mark.parametrize(
    "line", ["", "null", "[]", '{"step"', "{}", '{"step": "1"}', '{"step": 1, "eval_cvr": "high"}']
)
def test_a_damaged_log_is_named_with_its_line(line: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "run", {"step": 20, "eval_cvr": 0.5})
    path.write_text(path.read_text() + f"{line}\n")
    if line:
        with pytest.raises(ValueError, match=r"metrics.jsonl:2\b"):
            read_curve(path, "eval_cvr")
    else:
        assert read_curve(path, "eval_cvr") == ([20], [0.5])


def test_a_step_logged_twice_keeps_its_last_value(tmp_path: Path) -> None:
    """A run that stopped at 30 and went on from the checkpoint of 20."""
    path = write_log(
        tmp_path / "run",
        {"step": 20, "eval_cvr": 0.5},
        {"step": 30, "eval_cvr": 0.4},
        {"step": 20, "eval_cvr": 0.45},
        {"step": 30, "eval_cvr": 0.35},
        {"step": 40, "eval_cvr": 0.3},
    )
    assert read_curve(path, "eval_cvr") == ([20, 30, 40], [0.45, 0.35, 0.3])


@pytest.mark.paints
def test_curves_are_drawn_in_per_cent_with_a_label_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "a", {"step": 1, "eval_cvr": 0.5, "eval_ndcg": 0.75}, {"step": 2, "eval_cvr": 0.25})
    write_log(tmp_path / "b", {"step": 1, "eval_cvr": 0.1, "eval_ndcg": 0.9})
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    output = tmp_path / "new" / "curves.png"
    plot_curves({"NTP": tmp_path / "a", "alpha = 2": tmp_path / "b"}, output)
    monkeypatch.undo()
    (figure,) = drawn
    left, right = figure.axes
    points = [
        [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in a.lines] for a in (left, right)
    ]
    assert points[0] == [("NTP", [1, 2], [50.0, 25.0]), ("alpha = 2", [1], [10.0])]
    assert points[1] == [("NTP", [1], [75.0]), ("alpha = 2", [1], [90.0])]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["NTP", "alpha = 2"]
    assert figure.get_suptitle() == "mammal/test"
    assert "violation" in left.get_title()
    assert "nDCG" in right.get_title()
    plt.close(figure)
    assert output.read_bytes().startswith(b"\x89PNG\r\n")
    height, width, _ = image.imread(output).shape
    assert width > 2 * height > 0


def test_curves_on_different_data_are_labelled_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in (("a", "data/mammal"), ("b", "data/shop")):
        write_log(tmp_path / name, {"step": 1, "eval_cvr": 0.5}, data=data)
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    plot_curves({"NTP": tmp_path / "a", "other": tmp_path / "b"}, tmp_path / "curves.png")
    monkeypatch.undo()
    (figure,) = drawn
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "NTP, mammal/test",
        "other, shop/test",
    ]
    assert not figure.get_suptitle()
    plt.close(figure)


@pytest.mark.paints
def test_drawing_leaves_no_figure_open(tmp_path: Path) -> None:
    write_log(tmp_path / "a", {"step": 1, "eval_cvr": 0.5})
    before = plt.get_fignums()
    plot_curves({"a": tmp_path / "a"}, tmp_path / "curves.png")
    assert plt.get_fignums() == before


def test_what_an_evaluation_writes(tmp_path: Path) -> None:
    evaluation = make_evaluation()
    returned = write_report(evaluation, tmp_path / "run" / "eval", "alpha 2")
    written = {path.name for path in (tmp_path / "run" / "eval").iterdir()}
    assert written == {"metrics.json", "per_query.jsonl", "summary.md", "run.txt", "qrels.txt", *FIGURES}
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert metrics == returned
    assert {name: metrics[name] for name in evaluation.metrics} == evaluation.metrics, "flat, as fractions"
    assert {name: metrics[name] for name in evaluation.settings} == evaluation.settings
    names = {"cvr", "ndcg", "recall@1", "recall@2", "recall@5", "valid_mass", "free_run_ndcg", "invalid_rate"}
    assert set(metrics["intervals"]) == names
    for name, (low, high) in metrics["intervals"].items():
        assert 0 <= low < metrics[name] < high <= 1
    assert metrics["neighbours"] == sum(len(row.docids) - 1 for row in evaluation.rows)
    rows = [json.loads(line) for line in (tmp_path / "run" / "eval" / "per_query.jsonl").read_text().splitlines()]
    assert rows == [row.to_json() for row in evaluation.rows]
    assert [QueryResult.from_json(row) for row in rows] == evaluation.rows
    run = (tmp_path / "run" / "eval" / "run.txt").read_text().splitlines()
    assert len(run) == sum(len(row["docids"]) for row in rows)
    assert {line.split(" ")[5] for line in run} == {"alpha%202-exact-mean"}, "the mode is in every file"


def test_the_summary_has_the_papers_columns_intervals_and_figures(tmp_path: Path) -> None:
    metrics = write_report(make_evaluation(), tmp_path, "alpha 2")
    text = (tmp_path / "summary.md").read_text()
    table = results_table("alpha 2", metrics)
    assert table in text
    header, _, means, ranges = table.splitlines()
    assert cells(header) == ["", "CVR (↓)", "nDCG (↑)", "R@1 (↑)", "R@2 (↑)", "R@5 (↑)", "queries"]
    assert cells(means)[2] == f"{100 * metrics['ndcg']:.2f}"
    low, high = metrics["intervals"]["ndcg"]
    assert cells(ranges)[2] == f"{100 * low:.2f} \N{EN DASH} {100 * high:.2f}"
    assert "mode exact, mean of log-probabilities, terminator eos counted" in text
    assert f"finds (5 beams) has nDCG {100 * metrics['free_run_ndcg']:.2f}%" in text
    assert f"Near-ties: {metrics['near_ties']} of {metrics['neighbours']} " in text
    assert "did not fit" not in text, "no document was dropped"
    assert "no width" not in text, "no metric is 0 or 1"
    for figure in FIGURES:
        assert f"]({figure})" in text


def test_without_valid_mass_there_is_no_figure_of_it_nor_an_old_one(tmp_path: Path) -> None:
    evaluation = make_evaluation()
    write_report(evaluation, tmp_path, "exact")
    rows = [
        replace(
            row,
            metrics={name: value for name, value in row.metrics.items() if name != "valid_mass"},
            valid_mass_by_step=None,
        )
        for row in evaluation.rows
    ]
    metrics = {name: value for name, value in evaluation.metrics.items() if name != "valid_mass"}
    settings = evaluation.settings | {"mode": "greedy_path", "count_terminator": False}
    write_report(Evaluation(metrics | {"dropped_docs": 1234}, settings, rows), tmp_path, "proxy")
    assert not (tmp_path / "valid_mass.png").exists()
    text = (tmp_path / "summary.md").read_text()
    assert "valid_mass" not in text
    assert "mode greedy_path, mean of log-probabilities, terminator eos not counted" in text
    assert "- 1,234 documents did not fit into the prompt" in text


@pytest.mark.paints
def test_every_figure_is_a_picture_and_none_stays_open(tmp_path: Path) -> None:
    before = plt.get_fignums()
    write_report(make_evaluation(), tmp_path, "name")
    assert plt.get_fignums() == before
    for figure in FIGURES:
        pixels = image.imread(tmp_path / figure)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.05, "something is drawn"


RANDOM = {"cvr": 0.5, "ndcg": 0.875, "recall@1": 0.25}


def test_the_reference_rows_are_in_every_table(tmp_path: Path) -> None:
    """With the columns that they have, below the model's; a line says how high nDCG is for any order."""
    found = References({"random order": RANDOM, "BM25": RANDOM | {"ndcg": 0.9}}, "bm25s 0.3")
    metrics = write_report(replace(make_evaluation(), references=found), tmp_path / "a", "alpha")
    assert metrics["references"] == found.metrics
    for table in (results_table("alpha", metrics), metrics_table([("alpha", metrics), ("other", FULL)])):
        *_, random, bm25 = table.splitlines()
        assert cells(random)[:4] == ["random order", "50.00", "87.50", "25.00"]
        assert cells(random)[-1] == ""
        assert cells(random)[4] == "\N{EN DASH}"
        assert cells(bm25)[:3] == ["BM25", "50.00", "90.00"]
    assert meaning(metrics) == ["nDCG has the paper's logarithmic gains: a random order of these lists has 87.50."]
    assert meaning(FULL) == []
    summary = (tmp_path / "a" / "summary.md").read_text()
    assert "BM25 over the documents' texts: bm25s 0.3." in summary
    assert "a random order of these lists has 87.50" in summary
    compared = compare_runs([load_run(str(tmp_path / "a"))] * 2).splitlines()
    rows = [cells(line) for line in compared if line.startswith("|")]
    assert [row[0] for row in rows[-2:]] == ["random order", "BM25"]
    assert rows[-2][1:5] == ["", "50.00", "87.50", "25.00"]


@pytest.mark.parametrize(("asked", "above", "counted"), [("map", 0.0, 2), ("map", 1.0, 1), ("graded_ndcg", 0.0, 0)])
def test_negatives_that_count_as_relevant_are_told(tmp_path: Path, asked: str, above: float, counted: int) -> None:
    """Where a metric reads which documents are relevant, and the data was imported with a higher threshold."""
    shared = {"docids": ["a", "b", "c", "d"], "ranks": [1, 2, 2, 2], "scores": [0.0] * 4, "docid_tokens": [1] * 4}
    row = result(**shared, grades=[3.0, 2.0, 1.0, None], num_negatives=3, metrics={asked: 0.5})
    settings = make_evaluation().settings | ({"relevant_above": above} if above else {})
    metrics = metrics_file(Evaluation({asked: 0.5}, settings, [row]))
    assert metrics.get("relevant_negatives", 0) == counted
    words = f"{counted} negatives count as relevant, as their grades are above eval.relevant_above={above:g}:"
    assert [line.startswith(words) for line in meaning(metrics)] == [True] * bool(counted)


def test_metrics_that_read_grades_otherwise_are_not_compared(tmp_path: Path) -> None:
    whole = make_evaluation()
    rows = [replace(row, metrics=row.metrics | {"graded_ndcg@3": 0.5, "map": 0.25}) for row in whole.rows]
    for name, gains in (("a", "linear"), ("b", "exponential"), ("c", "linear")):
        metrics = whole.metrics | {"graded_ndcg@3": 0.5, "map": 0.25}
        write_report(
            replace(whole, rows=rows, metrics=metrics, settings=whole.settings | {"gains": gains}),
            tmp_path / name,
            name,
        )
    runs = {name: load_run(str(tmp_path / name)) for name in "abc"}
    same = compare_runs([runs["a"], runs["c"]])
    assert "graded nDCG@3 (↑)" in same and "MAP (↑)" in same and "Left out" not in same
    other = compare_runs([runs["a"], runs["b"]])
    assert "graded nDCG@3 (↑)" not in other and "MAP (↑)" in other
    assert "Left out, as eval.gains differs (exponential, linear): graded nDCG@3." in other


def test_an_interval_without_width_is_explained(tmp_path: Path) -> None:
    evaluation = make_evaluation(noise=0.01)
    metrics = write_report(evaluation, tmp_path, "perfect")
    assert metrics["intervals"]["cvr"] == [0.0, 0.0]
    said = "- CVR (↓), nDCG (↑), R@1 (↑): the same for every query, so the interval has no width."
    assert said in (tmp_path / "summary.md").read_text()


@pytest.mark.paints
def test_a_single_query_can_be_reported(tmp_path: Path) -> None:
    metrics = write_report(make_evaluation(queries=1), tmp_path, "one")
    assert metrics["intervals"]["ndcg"] == [metrics["ndcg"]] * 2
    assert "cvr" not in metrics, "q0 has no negative"
