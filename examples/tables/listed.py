"""Metrics within the list: the same scores without the negatives, which a loss may never have seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stoical.data.dataset import load_split
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import mean_metrics, query_metrics

CUTOFFS = (1, 2, 5)


def listed_metrics(evaluation: Path, data: Path) -> dict[str, float]:
    """NDCG and R@k (fractions) of an evaluation of the dataset's test split, over listed documents alone."""
    listed = {row.query_id: len(row.docs) for row in load_split(data, "test")}
    return mean_metrics(query_metrics(_without_negatives(row, listed), CUTOFFS) for row in _rows(evaluation))


def _rows(evaluation: Path) -> Iterator[dict[str, Any]]:
    with (evaluation / "per_query.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _without_negatives(row: dict[str, Any], listed: dict[str, int]) -> JudgedQuery:
    """Negatives come last in a row."""
    count = listed[row["query_id"]]
    return JudgedQuery(np.array(row["scores"][:count]), np.array(row["ranks"][:count]), 0)
