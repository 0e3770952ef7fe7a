"""What the figures of an evaluation show, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stoical.evaluation.result import QueryResult
from stoical.reporting.evaluation_figures import (
    by_group,
    masses,
    mean_scores,
    plot_metrics,
    plot_ndcg_breakdown,
    plot_rank_map,
    plot_valid_mass,
)
from tests.support.figures import drawn
from tests.support.small_rows import result

pytestmark = pytest.mark.paints


def make_rows() -> list[QueryResult]:
    """Two lists of two documents, one with a negative, and one of three with a tie."""
    return [
        result(docids=["a", "b", "x"], ranks=[1, 2, 3], scores=[-1.0, -2.0, -8.0], num_negatives=1),
        result(docids=["a", "b"], ranks=[1, 2], scores=[-3.0, -4.0]),
        result(docids=["a", "b", "c"], ranks=[1, 1, 3], scores=[-2.0, -4.0, -6.0]),
    ]


def test_mean_scores_by_rank_and_length_by_hand() -> None:
    lengths, counts, means = mean_scores(make_rows())
    assert (lengths.tolist(), counts.tolist()) == ([2, 3], [2, 1])
    expected = [[-2.0, -3.0, np.nan, -8.0], [-3.0, np.nan, -6.0, np.nan]]
    np.testing.assert_array_equal(means, expected)


def test_groups_by_hand() -> None:
    values, groups = np.array([0.0] + [1.0, 0.5] * 5), np.array([3] + [7] * 10)
    found, counts, means, ranges = by_group(values, groups)
    assert (found.tolist(), counts.tolist()) == ([3, 7], [1, 10])
    assert means == pytest.approx([0.0, 0.75])
    assert np.isnan(ranges[0]).all(), "an interval of one query would have no width"
    assert 0.5 <= ranges[1, 0] < 0.75 < ranges[1, 1] <= 1.0


def test_masses_by_step_are_padded() -> None:
    rows = [result(valid_mass_by_step=[0.5]), result(valid_mass_by_step=[0.25, 1.0])]
    np.testing.assert_array_equal(masses(rows), [[0.5, np.nan], [0.25, 1.0]])


def test_the_heat_map_shows_the_negatives_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, plot_rank_map, make_rows(), "label", tmp_path / "map.png")
    shown = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    expected = [[-2.0, -3.0, np.nan, np.nan, -8.0], [-3.0, np.nan, -6.0, np.nan, np.nan]]
    np.testing.assert_array_equal(shown, expected)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "2", "3", "neg."]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["2  (2)", "3  (1)"]
    without = drawn(monkeypatch, plot_rank_map, make_rows()[1:], "label", tmp_path / "map.png")
    assert without.axes[0].images[0].get_array().shape == (2, 3)


def test_the_breakdown_is_by_list_length_and_by_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [
        {"metrics": {"ndcg": 1.0}, "docid_tokens": [2, 9, 9]},
        {"metrics": {"ndcg": 0.5}, "docid_tokens": [4, 9]},
        {"metrics": {"ndcg": 0.25}, "docid_tokens": [4] * 3},
    ]
    rows = [replace(row, **extra) for row, extra in zip(make_rows(), more, strict=True)]
    figure = drawn(monkeypatch, plot_ndcg_breakdown, rows, "label", tmp_path / "x.png")
    by_length, by_tokens, lengths, tokens = figure.axes
    points = [axis.lines[0].get_xydata().tolist() for axis in (by_length, by_tokens)]
    assert points == [[[2, 75.0], [3, 25.0]], [[2, 100.0], [4, 37.5]]]
    assert [[bar.get_height() for bar in axis.patches] for axis in (lengths, tokens)] == [[2, 1], [1, 2]]


def test_valid_mass_is_the_mean_of_the_queries_that_have_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [result(valid_mass_by_step=[0.5]), result(valid_mass_by_step=[0.25, 1.0])]
    above, below = drawn(monkeypatch, plot_valid_mass, rows, "label", tmp_path / "x.png").axes
    assert above.lines[0].get_xydata().tolist() == [[1, 37.5], [2, 100.0]]
    assert [bar.get_height() for bar in below.patches] == [2, 1]
    more = [*rows * 5, result(valid_mass_by_step=[0.5])]  # 11 queries have the first step, 5 the second
    above, _ = drawn(monkeypatch, plot_valid_mass, more, "label", tmp_path / "x.png").axes
    (band,) = above.collections
    assert {x for path in band.get_paths() for x, _ in path.vertices} == {1.0}


def test_bars_are_the_papers_metrics_with_their_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"num_queries": 7, "mode": "exact", "ndcg": 0.9, "cvr": 0.25, "recall@2": 0.5, "valid_mass": 0.4}
    metrics |= {"intervals": {"cvr": [0.125, 0.5], "ndcg": [0.8, 1.0], "recall@2": [0.5, 0.5], "valid_mass": [0, 1]}}
    (axis,) = drawn(monkeypatch, plot_metrics, metrics, "name", tmp_path / "x.png").axes
    assert [bar.get_height() for bar in axis.patches] == [25.0, 90.0, 50.0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["CVR (↓)", "nDCG (↑)", "R@2 (↑)"]
    (errors,) = axis.collections
    assert [segment[:, 1].tolist() for segment in errors.get_segments()] == [[12.5, 50.0], [80.0, 100.0], [50.0, 50.0]]
    assert axis.get_title() == "name: 7 queries, mode exact"
