"""How far a mean over test queries can be trusted: seeded percentile bootstrap, resampling queries.

Dimension letters: N queries, K columns (metrics), R resamples.

An interval shows how much another sample of queries would change the mean, and nothing about another training seed.
Where every query has the same value, the interval has no width: 0 violations in N queries are compatible with a rate up
to 3/N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stoical.common.arrays import Floats

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
FEW = 10  # queries: figures show no interval of fewer, which resampling makes too narrow
DRAWS_AT_ONCE = 2**18  # a few MB
BOOTSTRAP = {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED}


def bootstrap_means(values: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """[R, K] the mean of each column of `values` [N, K] over N queries drawn with replacement, R times.

    All columns see the same draws, so that differences of columns are paired. A query whose value is NaN does not have
    the metric, and is left out of its mean; NaN where none of those drawn has it.
    """
    random = np.random.default_rng(seed)
    queries = len(values)
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    at_once = max(1, DRAWS_AT_ONCE // queries)  # resamples
    means = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = random.integers(queries, size=(rows, queries)) + queries * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries).astype(np.float64)
        with np.errstate(invalid="ignore"):
            means.append((times @ filled) / (times @ present))
    return np.concatenate(means)


def intervals(values: Floats) -> Floats:
    """[K, 2] the central 95% of the bootstrap means of each column of `values` [N, K]."""
    tail = 50 * (1 - LEVEL)
    found: Floats = np.nanpercentile(bootstrap_means(values), [tail, 100 - tail], axis=0).T
    return found


def columns(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Floats:
    """[N, K] the named metrics of N queries; NaN where a query does not have one."""
    return np.array([[row.get(name, np.nan) for name in names] for row in rows], dtype=np.float64)


def metric_intervals(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, list[float]]:
    """The interval, [low, high], of the mean of each named metric over the queries whose metrics are `rows`."""
    return dict(zip(names, intervals(columns(rows, names)).tolist(), strict=True))
