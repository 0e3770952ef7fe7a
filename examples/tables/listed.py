"""Metrics within the list: the same scores without the negatives, which a loss may never have seen."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import mean_metrics, query_metrics
from stoical.evaluation.result import QueryResult

CUTOFFS = (1, 2, 5)


def listed_metrics(rows: Iterable[QueryResult]) -> dict[str, float]:
    """Mean R@k and nDCG (fractions) of an evaluation's queries, over listed documents alone."""
    return mean_metrics(query_metrics(_listed(row), CUTOFFS) for row in rows)


def _listed(row: QueryResult) -> JudgedQuery:
    return JudgedQuery(np.array(row.scores[: row.num_listed]), np.array(row.ranks[: row.num_listed]), 0)
