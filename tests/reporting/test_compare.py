"""stoical compare: one table of several runs, with paired differences against a loop over queries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoical.evaluation.generation_metrics import compare_texts
from stoical.reporting.compare import Run, compare_generations, compare_runs, load_run, paired
from stoical.reporting.report import metrics_file
from tests.support.small_rows import make_evaluation

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A run directory with the files of an evaluation that are read, its rows changed as asked."""

    def written(
        name: str, seed: int = 0, noise: float = 1.0, change: Callable | None = None, queries: int = 40
    ) -> Path:
        evaluation = make_evaluation(seed=seed, noise=noise)
        lines = [row.to_json() for row in evaluation.rows]
        rows = lines if change is None else change(lines)
        directory = tmp_path / name / "eval"
        directory.mkdir(parents=True)
        (directory / "metrics.json").write_text(json.dumps(metrics_file(evaluation)))
        (directory / "per_query.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return sealed(tmp_path / name)

    return written


def sealed(run: Path) -> Path:
    """The run, its metrics.json made to go with the queries that are there."""
    metrics, rows = run / "eval" / "metrics.json", (run / "eval" / "per_query.jsonl").read_bytes()
    goes_with = {"num_queries": rows.count(b"\n"), "per_query_sha256": hashlib.sha256(rows).hexdigest()}
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | goes_with))
    return run


def table(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def loop_differences(first: Run, other: Run, name: str) -> tuple[float, float, float]:
    """The mean difference of the queries that have the metric, and its interval, drawing queries one by one."""
    pairs = [(row.metrics.get(name), other.rows[query_id].metrics.get(name)) for query_id, row in first.rows.items()]
    change = [None if ours is None else theirs - ours for ours, theirs in pairs]
    random, means = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = [change[place] for place in random.integers(len(change), size=len(change))]
        kept = [value for value in drawn if value is not None]
        means.append(sum(kept) / len(kept))
    low, high = np.percentile(means, [2.5, 97.5])
    kept = [value for value in change if value is not None]
    return sum(kept) / len(kept), float(low), float(high)


def test_one_table_of_runs_and_paired_differences(write: Write) -> None:
    runs = [load_run(str(path)) for path in (write("ntp"), write("alpha", 1, 0.3), write("worse", 2, 3.0))]
    text = compare_runs(runs)
    header, _, *rows = table(text)
    assert header == [
        "",
        "scored",
        "CVR (↓)",
        "nDCG (↑)",
        "R@1 (↑)",
        "R@2 (↑)",
        "R@5 (↑)",
        "free-run nDCG (↑)",
        "invalid (↓)",
        "queries",
    ]
    assert [row[0] for row in rows] == ["ntp", "alpha", "worse", "alpha − ntp", "worse − ntp"]
    for run, row in zip(runs, rows, strict=False):
        assert row[1] == "exact, mean"
        assert row[2:5] == [f"{100 * run.metrics[name]:.2f}" for name in ("cvr", "ndcg", "recall@1")]
        assert row[-1] == "40"
    for other, row in zip(runs[1:], rows[3:], strict=True):
        for name, cell in zip(("cvr", "ndcg", "recall@1", "recall@2", "recall@5"), row[2:], strict=False):
            mean, low, high = (100 * value for value in loop_differences(runs[0], other, name))
            assert cell.strip("*") == f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
            assert cell.startswith("**") == (low > 0 or high < 0)
    assert rows[3][3].startswith("**+"), "less noise ranks better"
    assert not rows[4][3].startswith("**"), "a difference that another sample of queries may turn around"
    assert "paired percentile bootstrap over 40 queries (2,000 resamples, seed 0)" in text


def test_queries_are_matched_by_id_not_by_place(write: Write) -> None:
    first, same = load_run(str(write("a"))), load_run(str(write("b", change=lambda rows: rows[::-1])))
    change = paired(first, same, ["cvr", "ndcg"])
    assert not change[:, 1].any()
    assert np.isnan(change[:, 0]).sum() == 8, "every fifth query has no negative"
    rows = table(compare_runs([first, same]))[2:]
    assert rows[2][2] == "+0.00 [+0.00, +0.00]", "no difference is none, and not bold"


def test_pairing_narrows_the_interval(write: Write) -> None:
    """The second run is the first with every nDCG a little lower: its queries vary, the difference does not."""

    def lower(rows: list[dict]) -> list[dict]:
        return [row | {"ndcg": row["ndcg"] - 0.01} for row in rows]

    cells = table(compare_runs([load_run(str(write("a"))), load_run(str(write("b", change=lower)))]))[-1]
    assert cells[3] == "**-1.00 [-1.00, -1.00]**"


@pytest.mark.filterwarnings("error")
def test_a_metric_that_one_run_lacks_has_no_difference(write: Write) -> None:
    def without(rows: list[dict]) -> list[dict]:
        return [{name: value for name, value in row.items() if name != "recall@2"} for row in rows]

    cells = table(compare_runs([load_run(str(write("a"))), load_run(str(write("b", change=without)))]))[-1]
    assert cells[5] == "\N{EN DASH}"
    assert cells[4] == "+0.00 [+0.00, +0.00]"


def with_free_run(run: Path, beams: int, ndcg: float, invalid: float) -> Path:
    """The run, with what a model would write by itself the same for every query."""
    metrics, rows = run / "eval" / "metrics.json", run / "eval" / "per_query.jsonl"
    found = {"free_run_ndcg": ndcg, "invalid_rate": invalid}
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | found | {"num_beams": beams}))
    rows.write_text("".join(json.dumps(json.loads(line) | found) + "\n" for line in rows.read_text().splitlines()))
    return sealed(run)


def test_what_the_models_write_by_themselves_is_compared_where_beam_widths_agree(write: Write) -> None:
    one, other = with_free_run(write("one"), 5, 0.75, 0.5), with_free_run(write("other"), 5, 0.5, 0.25)
    text = compare_runs([load_run(str(one)), load_run(str(other))])
    header, _, *rows = table(text)
    assert header[-3:-1] == ["free-run nDCG (↑)", "invalid (↓)"]
    assert [row[-3:-1] for row in rows[:2]] == [["75.00", "50.00"], ["50.00", "25.00"]]
    assert rows[2][-3:-1] == ["**-25.00 [-25.00, -25.00]**"] * 2
    assert text.endswith("Free-run nDCG: constrained beam search of width 5.")
    text = compare_runs([load_run(str(one)), load_run(str(with_free_run(other, 3, 0.5, 0.25)))])
    assert table(text)[0][-2] == "invalid (↓)"
    assert "free-run nDCG (↑)" not in text
    assert text.endswith("Free-run nDCG is left out: its beam widths differ (3, 5).")


def with_texts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = compare_texts([5, 6, 2], [5, 2]) | {"forced_hits": [True, False, True], "nll": 1.5, "target": "", "text": ""}
    return [row | {"generation": own} for row in rows]


def test_texts_are_compared_where_all_runs_have_them(write: Write) -> None:
    with_them = [load_run(str(write(name, change=with_texts))) for name in ("one", "two")]
    header, _, *rows = table(compare_generations(with_them))
    cells = ["0.00", "66.67", "33.33", "66.67", "2.0", "0.5000", str(len(with_them[0].rows))]
    assert rows == [["one", *cells], ["two", *cells]]
    assert header[1] == "exact match (↑)"
    assert compare_generations([*with_them, load_run(str(write("without")))]) == ""


def test_how_a_run_was_scored_stands_beside_it(write: Write) -> None:
    path = write("a") / "eval" / "metrics.json"
    metrics = json.loads(path.read_text())
    for change, said in (
        ({"mode": "greedy_path", "score": "sum"}, "greedy_path, sum"),
        ({"count_terminator": False}, "exact, mean, terminator not counted"),
        ({"count_terminator": False, "terminator": "none"}, "exact, mean, no terminator"),
    ):
        path.write_text(json.dumps(metrics | change))
        assert load_run(str(path.parent)).scored == said


def test_a_runs_name_is_its_directory(write: Write, tmp_path: Path) -> None:
    run = write("ntp")
    (run / "eval").rename(run / "eval_greedy_path")
    assert load_run(str(run / "eval_greedy_path")).name == "ntp/eval_greedy_path"
    write("ntp")
    assert load_run(str(run)).name == load_run(str(run / "eval")).name == "ntp"
    (run / "eval").rename(tmp_path / "elsewhere")
    assert load_run(str(tmp_path / "elsewhere")).name == "elsewhere"


def test_runs_of_one_name_are_told_apart_by_path(write: Write) -> None:
    one, two = write("x/ntp"), write("y/ntp", 1)
    first = [row[0] for row in table(compare_runs([load_run(str(one)), load_run(str(two))]))[2:4]]
    assert first == [str(one / "eval"), str(two / "eval")]


def test_different_queries_are_named(write: Write) -> None:
    first = load_run(str(write("a")))
    fewer = load_run(str(write("b", change=lambda rows: rows[3:])))
    with pytest.raises(ValueError, match=r"b/eval has not the queries of .*a/eval: it lacks 3 \(q0, q1, q2\)$"):
        compare_runs([first, fewer])
    with pytest.raises(ValueError, match=r"a/eval has not the queries of .*b/eval: it also has 3 \(q0, q1, q2\)$"):
        compare_runs([fewer, first])
    renamed = load_run(str(write("c", change=lambda rows: [row | {"query_id": "x" + row["query_id"]} for row in rows])))
    with pytest.raises(ValueError, match=r"it lacks 40 \(q0, q1, q10, q11, q12, \.\.\.\) and also has 40 \(xq0, "):
        compare_runs([first, renamed])


def test_different_documents_are_named(write: Write) -> None:
    def cut(rows: list[dict]) -> list[dict]:
        return [*rows[:-1], rows[-1] | {"docids": ["another", *rows[-1]["docids"][1:]]}]

    with pytest.raises(ValueError, match=r"query 'q39' has other documents in .*b/eval than in .*a/eval.* same seed"):
        compare_runs([load_run(str(write("a"))), load_run(str(write("b", change=cut)))])


def test_mistakes_are_told(write: Write, tmp_path: Path) -> None:
    run = write("a")
    with pytest.raises(ValueError, match="give two or more runs"):
        compare_runs([load_run(str(run))])
    with pytest.raises(ValueError, match=r"nothing has no metrics.json: evaluate first, with: stoical evaluate check"):
        load_run(str(tmp_path / "nothing"))
    (run / "eval" / "per_query.jsonl").write_text('{"query_id"\n')
    with pytest.raises(ValueError, match=r"per_query.jsonl:1 is not JSON"):
        load_run(str(run))
    (run / "eval" / "per_query.jsonl").write_text('{"query_id": "a", "mode": "exact", "docids": [], "ranks": []}\n')
    with pytest.raises(ValueError, match=r"per_query.jsonl:1 lacks docid_tokens, dropped_docs, near_ties, num_negat"):
        load_run(str(run))
    (run / "eval" / "metrics.json").write_text('{"num_queries": 5, "score": "mean"}')
    with pytest.raises(ValueError, match=r"lacks count_terminator, data, mode, per_query_sha256, terminator: eval"):
        load_run(str(run))
    (run / "eval" / "metrics.json").write_text("[]")
    with pytest.raises(ValueError, match=r"metrics.json is not a JSON object"):
        load_run(str(run))


def test_the_command(write: Write, cli: Callable[..., tuple[int, str, str]]) -> None:
    one, two = str(write("a")), str(write("b", 1))
    assert cli("compare", one, two) == (0, compare_runs([load_run(one), load_run(two)]) + "\n", "")
    assert cli("compare", one) == (2, "", "error: give two or more runs: stoical compare runs/ONE runs/OTHER\n")
    status, shown, _ = cli("compare", "--help")
    assert status == 0
    assert "stoical recipes" not in shown, "it takes no recipe"
