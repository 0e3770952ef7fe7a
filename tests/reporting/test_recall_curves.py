"""reporting/recall_curves.py: the mean over seeds of each query's R@k, and a figure of groups of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stoical.evaluation.paper import recall_at_k
from stoical.reporting.recall_curves import mean_recall, plot_recall
from stoical.reporting.report import write_report
from tests.support.figures import drawn
from tests.support.small_rows import make_evaluation

CUTOFFS = [1, 2, 7]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write_report(make_evaluation(seed=0, noise=1.0 + seed), folder / str(seed) / "eval", str(seed))
    return [folder / "0", folder / "1"]


def test_recall_is_each_querys_mean_over_the_runs(runs: list[Path]) -> None:
    """Cutoffs that the evaluations did not measure are read off the scores."""
    evaluations = [make_evaluation(seed=0, noise=1.0 + seed) for seed in range(2)]
    found = mean_recall(runs, CUTOFFS)
    assert found.shape == (len(evaluations[0].rows), 3)
    for place, rows in enumerate(zip(*(evaluation.rows for evaluation in evaluations), strict=True)):
        for column, k in enumerate(CUTOFFS):
            values = [recall_at_k(np.array(row.scores), np.array(row.ranks), k, row.num_negatives) for row in rows]
            assert found[place, column] == pytest.approx(sum(values) / 2)


def test_runs_of_other_queries_are_refused(runs: list[Path], tmp_path: Path) -> None:
    write_report(make_evaluation(queries=5), tmp_path / "few", "few")
    with pytest.raises(ValueError, match="was evaluated on other queries than"):
        mean_recall([runs[0], tmp_path / "few"], CUTOFFS)


def test_a_panel_a_title_and_a_line_a_group(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"$both$": runs, "one": runs[:1]}
    figure = drawn(monkeypatch, plot_recall, {"(a)": groups, "(b)": groups}, CUTOFFS, tmp_path / "two.png")
    assert (tmp_path / "two.png").is_file() and [axis.get_title() for axis in figure.axes] == ["(a)", "(b)"]
    line = figure.axes[0].containers[0][0]
    np.testing.assert_allclose(line.get_ydata(), 100 * mean_recall(runs, CUTOFFS).mean(axis=0))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["$both$", "one"]
