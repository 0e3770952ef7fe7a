"""The field's own metrics of one query: nDCG@k, reciprocal rank, average precision, precision, recall, Kendall's tau.

Dimension letters: D documents of one query. `gains` [D] and `relevant` [D] are in a predicted order, best first;
`judged.standard_order` makes it. As in trec_eval, a query without a relevant document has 0 of each.
"""

from __future__ import annotations

import numpy as np

from stoical.common.arrays import Bools, Floats


def discounts(places: int) -> Floats:
    """[places] 1 / log2(place + 1), places from 1."""
    return 1 / np.log2(np.arange(places) + 2)


def dcg(gains: Floats, k: int | None = None) -> float:
    """The discounted sum of the first k gains; of all without k."""
    return float(gains[:k] @ discounts(len(gains[:k])))


def graded_ndcg(gains: Floats, k: int | None = None) -> float:
    """DCG over that of the best order, both at k (Järvelin and Kekäläinen, 2002, as trec_eval's ndcg_cut)."""
    ideal = dcg(np.sort(gains)[::-1], k)
    return dcg(gains, k) / ideal if ideal else 0.0


def reciprocal_rank(relevant: Bools) -> float:
    """1 / the place of the first relevant document."""
    return 1 / (int(relevant.argmax()) + 1) if relevant.any() else 0.0


def average_precision(relevant: Bools) -> float:
    """The mean over the relevant documents of the precision where each stands."""
    hits = np.flatnonzero(relevant)
    return float(np.mean(np.arange(1, len(hits) + 1) / (hits + 1))) if len(hits) else 0.0


def precision(relevant: Bools, k: int) -> float:
    """How many of the first k are relevant, over k."""
    return float(relevant[:k].sum()) / k


def recall(relevant: Bools, k: int) -> float:
    """How many of the relevant documents are among the first k."""
    return float(relevant[:k].sum()) / int(relevant.sum()) if relevant.any() else 0.0


def kendall_tau(scores: Floats, ranks: Floats) -> float | None:
    """Kendall's tau-b between scores [D] and gold ranks [D], -1 to 1; None where all documents share one rank.

    A pair of equal scores is neither right nor wrong; where all scores are equal, tau is 0.
    """
    if (ranks == ranks[0]).all():
        return None
    if (scores == scores[0]).all():
        return 0.0
    from scipy.stats import kendalltau

    return float(kendalltau(scores, -ranks).statistic)
