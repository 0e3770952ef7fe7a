"""Metrics in expectation over all orders of documents with equal scores, each as likely: exact, nothing is drawn.

Dimension letters: D documents of one query, G groups of equal scores.

Scores that are all equal make these the metrics of a random order.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np

from stoical.common.arrays import Bools, Floats, Ints
from stoical.evaluation.paper import end_of_top
from stoical.evaluation.standard import dcg


def at_places(scores: Floats, values: Floats | Bools) -> Floats:
    """[D] the expected value, of `values` [D], of the document at each place."""
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=values.astype(np.float64)) / sizes
    found: Floats = np.repeat(means, sizes)
    return found


def groups(scores: Floats, relevant: Bools) -> Iterator[tuple[int, int, int]]:
    """By group of equal scores, best first: documents before it, its size, and its relevant documents."""
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=relevant).astype(int)
    before = np.cumsum(sizes) - sizes
    yield from zip(before.tolist(), sizes.tolist(), hits.tolist(), strict=True)


def expected_ndcg(scores: Floats, gains: Floats, k: int | None = None) -> float:
    """Of nDCG at k."""
    ideal = dcg(np.sort(gains)[::-1], k)
    return dcg(at_places(scores, gains), k) / ideal if ideal else 0.0


def expected_hits(scores: Floats, relevant: Bools, k: int) -> float:
    """Of the number of relevant documents among the first k."""
    return float(at_places(scores, relevant)[:k].sum())


def expected_reciprocal_rank(scores: Floats, relevant: Bools) -> float:
    """Of the reciprocal rank: the first relevant place within the first group that has one."""
    for before, size, hits in groups(scores, relevant):
        if hits:
            first = (comb(size - place, hits - 1) / (before + place) for place in range(1, size - hits + 2))
            return sum(first) / comb(size, hits)
    return 0.0


def expected_average_precision(scores: Floats, relevant: Bools) -> float:
    """Of the average precision: the sum over places of the chance of two relevant documents, there and above."""
    total, above = 0.0, 0
    for before, size, hits in groups(scores, relevant):
        both = hits * (hits - 1) / (size * (size - 1)) if size > 1 else 0.0
        for place in range(1, size + 1):
            total += (hits / size * (above + 1) + (place - 1) * both) / (before + place)
        above += hits
    return total / above if above else 0.0


def expected_violation(scores: Floats, num_negatives: int) -> float:
    """The chance that a relevant document comes below a negative."""
    positives, negatives = np.split(scores, [len(scores) - num_negatives])
    lowest, highest = positives.min(), negatives.max()
    if lowest != highest:
        return float(lowest < highest)
    tied, wrong = int((positives == lowest).sum()), int((negatives == highest).sum())
    return 1 - 1 / comb(tied + wrong, wrong)


def expected_common(scores: Floats, ranks: Ints, k: int, num_negatives: int) -> float:
    """Of |gold top k and predicted top k in common|, `paper.recall_at_k`'s numerator."""
    gold = ranks[: len(scores) - num_negatives]
    last, room = end_of_top(gold, k)
    better, tied = np.zeros(len(scores), dtype=bool), np.zeros(len(scores), dtype=bool)
    better[: len(gold)], tied[: len(gold)] = gold < last, gold == last
    return expected_hits(scores, better, k) + _expected_least(scores, tied, k, room)


def _expected_least(scores: Floats, marked: Bools, k: int, room: int) -> float:
    """The expectation of min(room, how many marked documents are among the first k)."""
    sure = 0
    for before, size, hits in groups(scores, marked):
        drawn = min(k - before, size)
        if drawn == size:
            sure += hits
            continue
        if drawn <= 0:
            break
        ways = [comb(hits, found) * comb(size - hits, drawn - found) for found in range(min(hits, drawn) + 1)]
        return sum(way * min(room, sure + found) for found, way in enumerate(ways)) / comb(size, drawn)
    return float(min(room, sure))
