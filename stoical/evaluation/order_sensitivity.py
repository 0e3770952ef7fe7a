"""How much the order in which a prompt lists the documents decides: the same queries under several shuffles.

Dimension letters: K shuffles, D documents of one query that all K prompts hold (or that are negatives).

The first shuffle is the evaluation's own; the k-th is that of epoch k - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from stoical.common.arrays import Floats
from stoical.common.time_spent import TimeSpent
from stoical.evaluation.evaluator import Evaluator
from stoical.evaluation.intervals import metric_intervals
from stoical.evaluation.metrics import metrics_among
from stoical.evaluation.result import Evaluation, QueryResult


def shuffled_evaluations(
    evaluator: Evaluator, model: nn.Module, shuffles: int, shown: bool, spent: TimeSpent | None = None
) -> list[Evaluation]:
    """The evaluations of the second to the K-th shuffle. The dataset has its own epoch afterwards."""
    plain = replace(evaluator, diagnostics=False, generation=False, calibration=False)
    epoch, found = evaluator.dataset.epoch, []
    try:
        for shift in range(1, shuffles):
            evaluator.dataset.set_epoch(epoch + shift)
            found.append(plain(model, shown, spent))
    finally:
        evaluator.dataset.set_epoch(epoch)
    return found


def order_sensitivity(runs: Sequence[Evaluation]) -> dict[str, Any]:
    """What order_sensitivity.json holds, of K evaluations of the same queries.

    `metrics`: each metric's mean over the shuffles, standard deviation (K - 1 in the denominator), least and most, and
    `values`, one a shuffle. `flip_rate`: how often two shuffles order a pair of a query's documents differently;
    `first_flip_rate`: how often they put different documents first. Both with 95% intervals over the queries.
    """
    names = [metric.name for metric in metrics_among(runs[0].metrics)]
    queries = list(zip(*(run.rows for run in runs), strict=True))
    rates = [rate for rate in map(flip_rates, queries) if rate]
    asked = ["flip_rate", "first_flip_rate"]
    return {
        "shuffles": len(runs),
        "num_queries": len(queries),
        "metrics": {name: _spread([float(run.metrics[name]) for run in runs]) for name in names},
        **{name: float(np.mean([own[name] for own in rates])) if rates else None for name in asked},
        "intervals": metric_intervals(rates, asked) if rates else {},
    }


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1))
    return {"mean": float(np.mean(values)), "std": deviation, "min": min(values), "max": max(values), "values": values}


def flip_rates(rows: Sequence[QueryResult]) -> Mapping[str, float]:
    """Of one query's rows, one a shuffle; empty where fewer than two documents are in all of them."""
    shared = sorted(set.intersection(*(set(row.docids) for row in rows)))
    if len(shared) < 2:
        return {}
    by_docid = [dict(zip(row.docids, row.scores, strict=True)) for row in rows]
    scores = np.array([[own[docid] for docid in shared] for own in by_docid])
    signs = np.sign(scores[:, :, None] - scores[:, None, :])[:, *np.triu_indices(len(shared), 1)]
    return {"flip_rate": float(_disagreement(signs).mean()), "first_flip_rate": _differs(scores.argmax(axis=1))}


def _disagreement(values: Floats) -> Floats:
    """[...] how often two different rows of `values` [K, ...] of -1, 0 and 1 differ."""
    count = len(values)
    same = sum((values == sign).sum(axis=0) * ((values == sign).sum(axis=0) - 1) for sign in (-1, 0, 1))
    rate: Floats = 1 - same / (count * (count - 1))
    return rate


def _differs(places: Any) -> float:
    """How often two of K places differ."""
    counts = np.bincount(places)
    return float(1 - (counts * (counts - 1)).sum() / (len(places) * (len(places) - 1)))
