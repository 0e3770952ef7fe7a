"""The paper's ranking metrics (section 5.1) of one query, as fractions.

Dimension letters: D documents of one query, the most relevant first, negatives last; scores [D] are log-probabilities
(nats), higher is better; ranks [D] are the gold ranks from 1; `num_negatives` of the documents are negatives.
"""

from __future__ import annotations

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.evaluation.standard import dcg

NEAR_TIE = 1e-3  # nats


def predicted_order(scores: Floats) -> Ints:
    """[D] document places by descending score; ties go against the model: the less relevant document comes first.

    Which of two documents with one score and one gold rank comes first makes no difference to any metric.
    """
    return (len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")).astype(np.int64)


def violates(scores: Floats, num_negatives: int) -> bool:
    """True where a relevant document's score is below a negative's. The mean over queries is CVR."""
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
    return dcg(gains[predicted_order(scores)]) / dcg(np.sort(gains)[::-1])


def recall_at_k(scores: Floats, ranks: Ints, k: int, num_negatives: int = 0) -> float:
    """|gold top k and predicted top k in common| / k, to the letter: 3 relevant documents have R@5 = 3 / 5 at best.

    The prediction ranks negatives among the documents; the gold ranking holds relevant documents only. Where the gold
    top k ends within a rank that several documents share, each of them is as good: those of better ranks count, and of
    that rank as many as the gold top k has places left for. So ranks 1, 2, 2 at k = 2 give the prediction {1st, a 2nd}
    1.0 and {2nd, 2nd} 0.5, in whatever order the list has them.
    """
    gold = ranks[: len(scores) - num_negatives]
    last, places = end_of_top(gold, k)
    found = predicted_order(scores)[:k]
    found_ranks = gold[found[found < len(gold)]]
    return float((found_ranks < last).sum() + min(places, int((found_ranks == last).sum()))) / k


def end_of_top(gold: Ints, k: int) -> tuple[int, int]:
    """The rank within which the top k of the `gold` ranks ends, and how many of that rank it has places left for."""
    size = min(k, len(gold))
    last = int(np.sort(gold)[size - 1])
    return last, size - int((gold < last).sum())


def near_ties(scores: Floats) -> int:
    """How many neighbours in the predicted order are within 1e-3 nats, so that less exact arithmetic may swap them."""
    return int((np.diff(np.sort(scores)) <= NEAR_TIE).sum())
