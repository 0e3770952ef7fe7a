"""Whether probabilities mean what the loss says: p(d | q) among a query's documents beside the target mu.

Dimension letters: D documents of one query, negatives not among them; N documents of all queries; K bins.

p(d | q) is the softmax of log p(docID) over the query's documents: the probability given that one of them is written.
A temperature T makes it the softmax of log p(docID) / T. The target is what the loss trains towards, mu(r) or lambda(r)
normalised over the documents (`trie.node_weights.doc_targets`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stoical.common.arrays import Floats
from stoical.evaluation.result import QueryResult
from stoical.trie.node_weights import TargetSettings, doc_targets

BINS = 10
LOG_RANGE = 6.0  # of the temperature: e^-6 to e^6


@dataclass(frozen=True, slots=True)
class Listed:
    """One query: log p(docID) [D] in nats, the target [D], and which documents have rank 1 [D]."""

    logprobs: Floats
    target: Floats
    first: Floats

    @classmethod
    def of(cls, row: QueryResult, target: TargetSettings) -> Listed:
        """The query of a row that was evaluated with `eval.calibration=true`."""
        assert row.logprobs is not None
        ranks = np.array(row.ranks[: row.num_listed])
        return cls(np.array(row.logprobs), doc_targets(ranks, target), (ranks == ranks.min()).astype(np.float64))

    def probabilities(self, temperature: float = 1.0) -> Floats:
        """[D] p(d | q) at a temperature."""
        return softmax(self.logprobs / temperature)


def softmax(values: Floats) -> Floats:
    """[D] exp(values) over their sum."""
    shifted = np.exp(values - values.max())
    probabilities: Floats = shifted / shifted.sum()
    return probabilities


def cross_entropy(queries: Sequence[Listed], temperature: float) -> float:
    """The mean over queries of -sum_d mu(d) log p(d | q), in nats."""
    total = 0.0
    for query in queries:
        scaled = query.logprobs / temperature
        top = scaled.max()
        total += top + math.log(np.exp(scaled - top).sum()) - float(query.target @ scaled)
    return total / len(queries)


def fit_temperature(queries: Sequence[Listed]) -> float:
    """The temperature of the smallest cross-entropy, within e^-6 to e^6; it is convex in 1 / T. 1 without a choice."""
    if all(len(query.logprobs) == 1 for query in queries):
        return 1.0
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: cross_entropy(queries, math.exp(log)),
        bounds=(-LOG_RANGE, LOG_RANGE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


@dataclass(frozen=True, slots=True)
class Bin:
    """Documents whose probability is in a K-th of 0 to 1: how many, and the means of probability and of outcome."""

    count: int
    probability: float
    outcome: float


def bins(probabilities: Floats, outcomes: Floats) -> list[Bin]:
    """The bins of equal width that are not empty, of `probabilities` [N] and what should be their means [N]."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    chosen = [place == number for number in range(BINS)]
    return [
        Bin(int(own.sum()), float(probabilities[own].mean()), float(outcomes[own].mean()))
        for own in chosen
        if own.any()
    ]


def calibration_error(found: Sequence[Bin]) -> float:
    """Expected calibration error: the mean over documents of |mean probability - mean outcome| of their bins."""
    return sum(own.count * abs(own.probability - own.outcome) for own in found) / sum(own.count for own in found)


def total_variation(probabilities: Floats, target: Floats) -> float:
    """Half the sum of |p - mu| over documents: the most that the two can differ on any set of them."""
    return float(np.abs(probabilities - target).sum()) / 2


def measure(queries: Sequence[Listed], temperatures: Sequence[float]) -> dict[str, Any]:
    """Errors and bins at a temperature for each query.

    `ece`: of all documents, against the target. `first_ece`: of each query's likeliest document, against whether its
    rank is 1. `total_variation`: the mean over queries. `cross_entropy`: in nats.
    """
    found = [query.probabilities(own) for query, own in zip(queries, temperatures, strict=True)]
    pairs = list(zip(found, queries, strict=True))
    all_bins = bins(np.concatenate(found), np.concatenate([query.target for query in queries]))
    tops = [int(own.argmax()) for own in found]
    first = bins(
        np.array([own[top] for own, top in zip(found, tops, strict=True)]),
        np.array([query.first[top] for query, top in zip(queries, tops, strict=True)]),
    )
    entropies = [cross_entropy([query], own) for query, own in zip(queries, temperatures, strict=True)]
    return {
        "ece": calibration_error(all_bins),
        "first_ece": calibration_error(first),
        "total_variation": float(np.mean([total_variation(own, query.target) for own, query in pairs])),
        "cross_entropy": float(np.mean(entropies)),
        "bins": [asdict(own) for own in all_bins],
        "first_bins": [asdict(own) for own in first],
    }


def calibrate(rows: Sequence[QueryResult], target: TargetSettings) -> dict[str, Any]:
    """What calibration.json holds, of rows that have `logprobs`.

    `as_is`: at temperature 1. `held_out`: each half of the queries (every other one) at the temperature that was fitted
    on the other half, `temperatures`; null where there is one query. `temperature`: fitted on all, to use elsewhere.
    `valid_mass`: the mean probability of writing one of the query's documents at all.
    """
    queries = [Listed.of(row, target) for row in rows]
    halves = [queries[0::2], queries[1::2]]
    held_out, fitted = None, None
    if len(queries) > 1:
        fitted = [fit_temperature(halves[1]), fit_temperature(halves[0])]
        held_out = measure(queries, [fitted[place % 2] for place in range(len(queries))])
    masses = [float(np.exp(query.logprobs).sum()) for query in queries]
    return {
        "num_queries": len(queries),
        "num_docs": sum(len(query.logprobs) for query in queries),
        "valid_mass": float(np.mean(masses)),
        "as_is": measure(queries, [1.0] * len(queries)),
        "held_out": held_out,
        "temperatures": fitted,
        "temperature": fit_temperature(queries),
    }
