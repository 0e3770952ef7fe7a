"""Ranking metrics of section 5.1, one query at a time. Fractions, not percentages.

Dimension letters: D documents of one query, the most relevant first, negatives last; scores [D] are log-probabilities
(nats), higher is better; ranks [D] are the gold ranks from 1; `num_negatives` of the documents are negatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

NEAR_TIE = 1e-3  # nats


def predicted_order(scores: Floats) -> Ints:
    """[D] document places by descending score; ties go against the model: the less relevant document comes first."""
    return (len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")).astype(np.int64)


def violates(scores: Floats, num_negatives: int) -> bool:
    """Is any relevant document's score below a negative's? The mean over queries is CVR."""
    positives = len(scores) - num_negatives
    return bool(scores[:positives].min() < scores[positives:].max())


def gold_gains(ranks: Ints, num_negatives: int) -> Floats:
    """[D] log(n_q + 1) for rank 1 down to log 2 for rank n_q, and log 1 = 0 for negatives."""
    positives = len(ranks) - num_negatives
    gains = np.log(np.maximum(positives + 2 - ranks, 1.0))
    gains[positives:] = 0.0
    return gains


def ndcg(scores: Floats, gains: Floats) -> float:
    """DCG of the predicted order over DCG of the ideal one, discount 1 / log2(place + 1), gains linear."""
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    ideal = float(np.sort(gains)[::-1] @ discounts)
    return float(gains[predicted_order(scores)] @ discounts) / ideal


def recall_at_k(scores: Floats, k: int, num_negatives: int = 0) -> float:
    """|gold top k and predicted top k in common| / k, to the letter: 3 relevant documents have R@5 = 3 / 5 at best.

    The prediction ranks negatives among the documents; the gold ranking holds relevant documents only.
    """
    positives = len(scores) - num_negatives
    return float((predicted_order(scores)[:k] < min(k, positives)).sum()) / k


def near_ties(scores: Floats) -> int:
    """How many neighbours in the predicted order are within 1e-3 nats, so that less exact arithmetic may swap them."""
    return int((np.diff(np.sort(scores)) <= NEAR_TIE).sum())


def query_metrics(scores: Floats, ranks: Ints, num_negatives: int, ks: Iterable[int]) -> dict[str, float]:
    """All metrics of one query; `cvr` (0 or 1) only where there is a negative."""
    values = {"cvr": float(violates(scores, num_negatives))} if num_negatives else {}
    values["ndcg"] = ndcg(scores, gold_gains(ranks, num_negatives))
    return values | {f"recall@{k}": recall_at_k(scores, k, num_negatives) for k in ks}


def mean_metrics(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over the queries that have it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}
