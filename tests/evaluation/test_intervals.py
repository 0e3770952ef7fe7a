"""stoical/reporting/intervals.py against a loop that draws queries one by one."""

from __future__ import annotations

import numpy as np
import pytest

from stoical.common.arrays import Floats
from stoical.evaluation.intervals import bootstrap_means, intervals, metric_intervals


def loop_means(values: Floats, resamples: int, seed: int) -> list[list[float]]:
    """Queries drawn one by one, and the mean of those that have the metric."""
    random, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = [values[place] for place in random.integers(len(values), size=len(values))]
        columns = [[row[k] for row in drawn if not np.isnan(row[k])] for k in range(values.shape[1])]
        found.append([sum(column) / len(column) if column else np.nan for column in columns])
    return found


def test_bootstrap_means_are_those_of_a_loop_over_draws() -> None:
    values = np.random.default_rng(1).normal(size=(13, 3))
    values[[0, 4, 5, 11], 1] = np.nan
    values[1:, 2] = np.nan  # one query has it: some draws have none
    found = bootstrap_means(values, resamples=50, seed=7)
    np.testing.assert_allclose(found, loop_means(values, 50, 7), rtol=1e-13, atol=1e-15)
    assert np.isnan(found[:, 2]).any() and not np.isnan(found[:, :2]).any()
    assert np.array_equal(bootstrap_means(values, 50, 7), found, equal_nan=True)
    assert not np.array_equal(bootstrap_means(values, 50, 8), found, equal_nan=True)


def test_an_interval_is_the_middle_95_per_cent_of_the_means() -> None:
    values = np.random.default_rng(2).normal(size=(30, 2))
    means = np.sort(np.array(loop_means(values, 2000, 0)), axis=0)
    for (low, high), column in zip(intervals(values), means.T, strict=True):
        assert column[49] <= low <= column[50], "1,999 * 2.5% = 49.98"
        assert column[1949] <= high <= column[1950]


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    """200 samples of 60 coin tosses at 30%; a percentile interval of such a sample holds 30% about 94% of the time."""
    random = np.random.default_rng(5)
    columns = (random.uniform(size=(60, 200)) < 0.3).astype(float)
    found = intervals(columns)
    covered = ((found[:, 0] <= 0.3) & (found[:, 1] >= 0.3)).mean()
    assert 0.90 <= covered <= 0.98
    assert found[:, 1] - found[:, 0] == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 60), rel=0.35)


def test_metric_intervals_are_by_name_over_the_queries_that_have_it() -> None:
    rows = [{"cvr": 1.0, "ndcg": 0.5}, {"ndcg": 0.5}, {"cvr": 1.0, "ndcg": 0.5}]
    assert metric_intervals(rows, ["ndcg", "cvr"]) == {"ndcg": [0.5, 0.5], "cvr": [1.0, 1.0]}
