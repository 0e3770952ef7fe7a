"""Ranking losses of one list as slow loops in float64, written from their papers' formulas.

A document is a `Doc`: its score s (a tensor), its rank (None for a negative), its weight, what nDCG pays for it, and
the scores of a teacher and of a reference model. Every function gives one number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ZERO = torch.zeros((), dtype=torch.float64)


@dataclass
class Doc:
    s: Tensor
    rank: int | None
    gain: float = 0.0
    relevance: float = 0.0
    weight: float = 1.0
    teacher: float = math.nan
    reference: float = 0.0


def worse(docs: Sequence[Doc], than: Doc) -> list[Doc]:
    """The documents of a worse rank; a negative is worse than all that are ranked."""
    return [d for d in docs if than.rank is not None and (d.rank is None or d.rank > than.rank)]


def pairs(docs: Sequence[Doc]) -> list[tuple[Doc, Doc]]:
    return [(d, other) for d in docs for other in worse(docs, d)]


def mean(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """By weights; 0 of nothing."""
    total = sum(weight for weight, _ in terms)
    return sum((weight * term for weight, term in terms), ZERO) / total if total else ZERO


def log_share(top: Tensor, of: Sequence[Tensor]) -> Tensor:
    return top - torch.stack(list(of)).logsumexp(0)


def choices(docs: Sequence[Doc], score: Callable[[Doc], Tensor]) -> list[Tensor]:
    """log of the chance of each ranked document among itself, its ties and all that are worse (Xia et al., Eq. 5)."""
    found = []
    for d in docs:
        if d.rank is not None:
            left = [o for o in docs if o.rank == d.rank] + worse(docs, d)
            found.append(log_share(score(d), [score(o) for o in left]))
        else:
            found.append(ZERO)
    return found


def list_mle(docs: Sequence[Doc]) -> Tensor:
    return -sum((d.weight * term for d, term in zip(docs, choices(docs, lambda d: d.s), strict=True)), ZERO)


def p_list_mle(docs: Sequence[Doc]) -> Tensor:
    """Lan et al. 2014, Eq. 4 with alpha(i) = 2^(n-i) - 1, scaled to a sum of 1."""
    alpha = [0.0 if d.rank is None else 2.0 ** (len(docs) - d.rank) - 1 for d in docs]
    if not sum(alpha):
        return ZERO
    terms = zip(docs, alpha, choices(docs, lambda d: d.s), strict=True)
    return -sum((d.weight * a / sum(alpha) * term for d, a, term in terms), ZERO)


def list_net(docs: Sequence[Doc]) -> Tensor:
    """Cao et al. 2007, Eq. 5 for the top document."""
    masses = [d.weight * math.exp(d.relevance) for d in docs]
    return _cross_entropy(docs, masses)


def softmax(docs: Sequence[Doc]) -> Tensor:
    return _cross_entropy(docs, [d.weight * d.gain for d in docs])


def _cross_entropy(docs: Sequence[Doc], masses: Sequence[float]) -> Tensor:
    if not sum(masses):
        return ZERO
    scores = [d.s for d in docs]
    return -sum((m / sum(masses) * log_share(d.s, scores) for d, m in zip(docs, masses, strict=True)), ZERO)


def rank_net(docs: Sequence[Doc]) -> Tensor:
    return mean([(d.weight * o.weight, (1 + (o.s - d.s).exp()).log()) for d, o in pairs(docs)])


def ideal(docs: Sequence[Doc]) -> float:
    best = sorted((d.weight * d.gain for d in docs), reverse=True)
    return sum(gain / math.log2(1 + place) for place, gain in enumerate(best, 1))


def lambda_loss(docs: Sequence[Doc]) -> Tensor:
    """Wang et al. 2018, Eq. 16: (rho + mu delta) |G - G'|, mu = 10."""
    order = sorted(docs, key=lambda d: (-d.s.item(), -math.inf if d.rank is None else -d.rank))
    place = {id(d): place for place, d in enumerate(order, 1)}
    total = ZERO
    for d, o in itertools.permutations(docs, 2):
        apart = d.weight * d.gain - o.weight * o.gain
        if apart > 0:
            i, j = place[id(d)], place[id(o)]
            rho = abs(1 / math.log2(1 + i) - 1 / math.log2(1 + j))
            delta = abs(1 / math.log2(1 + abs(i - j)) - 1 / math.log2(2 + abs(i - j)))
            total = total + (rho + 10 * delta) * apart / ideal(docs) * torch.log2(1 + (o.s - d.s).exp())
    return total


def smooth_rank(d: Doc, docs: Sequence[Doc]) -> Tensor:
    """Qin et al. 2010, Eq. 10."""
    return 1 + sum((torch.sigmoid(o.s - d.s) for o in docs if o is not d), ZERO)


def approx_ndcg(docs: Sequence[Doc]) -> Tensor:
    if not ideal(docs):
        return ZERO + 1
    return 1 - sum((d.weight * d.gain / torch.log2(1 + smooth_rank(d, docs)) for d in docs), ZERO) / ideal(docs)


def adr_mse(docs: Sequence[Doc]) -> Tensor:
    """Schlatt et al. 2025, Eq. 2, with the mean place of documents that tie."""
    terms = []
    for d in docs:
        if d.rank is not None:
            ties = sum(o.rank == d.rank for o in docs)
            rank = sum(place for place in range(d.rank, d.rank + ties)) / ties
            terms.append((d.weight, (rank - smooth_rank(d, docs)) ** 2 / math.log2(1 + rank)))
    return mean(terms)


def softmax_dpo(docs: Sequence[Doc]) -> Tensor:
    """Chen et al. 2024, Eq. 10: -log sigmoid(-log sum_l exp(h_l - h_w)), the temperature being 1 / beta."""
    terms = []
    for d in docs:
        if d.rank == 1 and worse(docs, d):
            odds = sum(((o.s - o.reference - d.s + d.reference).exp() for o in worse(docs, d)), ZERO)
            terms.append((d.weight, -torch.sigmoid(-odds.log()).log()))
        elif d.rank == 1:
            terms.append((d.weight, ZERO))
    return mean(terms)


def list_dpo(docs: Sequence[Doc]) -> Tensor:
    """Rafailov et al. 2023, Eq. 20."""
    ratios = choices(docs, lambda d: d.s - d.reference)
    return -sum((d.weight * term for d, term in zip(docs, ratios, strict=True)), ZERO)


def info_nce(docs: Sequence[Doc]) -> Tensor:
    negatives = [d.s for d in docs if d.rank is None]
    return mean([(d.weight, -log_share(d.s, [d.s, *negatives])) for d in docs if d.rank is not None])


def margin_mse(docs: Sequence[Doc]) -> Tensor:
    scored = [d for d in docs if math.isfinite(d.teacher)]
    terms = [(d.weight * o.weight, (d.s - o.s - (d.teacher - o.teacher)) ** 2) for d, o in pairs(scored)]
    return mean(terms)


def order_probability(order: Sequence[Tensor]) -> Tensor:
    """The Plackett-Luce probability of an order of scores."""
    return sum((log_share(s, order[place:]) for place, s in enumerate(order)), ZERO).exp()


def rank_distil(docs: Sequence[Doc]) -> Tensor:
    """Reddi et al. 2021: the sum over all orders of the teacher's probability times -log of ours."""
    scored = [d for d in docs if math.isfinite(d.teacher)]
    total = ZERO
    for order in itertools.permutations(scored):
        theirs = order_probability([torch.tensor(d.teacher, dtype=torch.float64) for d in order])
        ours = [d.s for d in order]
        terms = (d.weight * log_share(d.s, ours[place:]) for place, d in enumerate(order))
        total = total - theirs * sum(terms, ZERO)
    return total


def ndcg_of(order: Sequence[Doc]) -> float:
    earned = sum(d.weight * d.gain / math.log2(1 + place) for place, d in enumerate(order, 1))
    return earned / (ideal(order) or 1)


def policy_gradient(docs: Sequence[Doc]) -> Tensor:
    """1 minus the sum over all orders of their probability times their nDCG."""
    orders = itertools.permutations(docs)
    return 1 - sum((order_probability([d.s for d in order]) * ndcg_of(order) for order in orders), ZERO)
