"""The expected nDCG of a Plackett-Luce ranker, and its gradient (Singh and Joachims 2019, Oosterhuis 2021).

Dimension letters: B queries, N docIDs of the longest list, K drawn orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists, discounts, gain_shares
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import (
    by_length,
    drawn_orders,
    in_order,
    order_choices,
    set_choices,
    set_probs,
)

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] 1 - E[nDCG] over orders drawn by the scores.

    Exact, and so is its gradient, for lists of up to `plackett_luce.EXACT` documents. Longer ones: the mean over drawn
    orders, whose gradient is the policy gradient with the other orders' mean as control variate.
    """
    return by_length(lists, exactly, by_drawing)


def exactly(lists: Lists) -> Tensor:
    """[B] the sum over all sets that may come first, and all documents that may follow."""
    probs = set_probs(set_choices(lists.scores, lists.real), lists.real)
    sizes = _sizes(probs)
    paid = gain_shares(lists)[:, None, :] * discounts(lists.scores)[sizes][None, :, None]
    return 1 - (probs * paid).sum(dim=(1, 2))


def _sizes(probs: Tensor) -> Tensor:
    """[S] how many documents each set has; the full one, after which nothing comes, counts as one less."""
    sets, bits = torch.arange(probs.shape[1], device=probs.device), torch.arange(probs.shape[2], device=probs.device)
    return ((sets[:, None] >> bits) & 1).sum(dim=1).clamp(max=probs.shape[2] - 1)


def by_drawing(lists: Lists) -> Tensor:
    """[B] the mean over drawn orders."""
    return drawn_value(lists, drawn_orders(lists, lists.scores))


def drawn_value(lists: Lists, orders: Tensor) -> Tensor:
    """[B] 1 - the mean nDCG of the `orders` [B, K, N], its gradient the policy gradient that they estimate.

    A choice is credited with what the order earns from there on, minus what the other K - 1 orders earn from there on
    in the mean; they are drawn apart from it, so that the gradient's expectation is exact.
    """
    earned = in_order(gain_shares(lists), orders) * discounts(lists.scores)
    to_go = earned.flip(2).cumsum(dim=2).flip(2)
    others = (to_go.sum(dim=1, keepdim=True) - to_go) / (orders.shape[1] - 1)
    credited = (to_go - others) * order_choices(lists.scores, lists.real, orders)
    surrogate = credited.sum(dim=2).mean(dim=1)
    return 1 - earned.sum(dim=2).mean(dim=1) - (surrogate - surrogate.detach())


POLICY_GRADIENT = RankingLoss(
    value,
    formula="`1 - E[nDCG]` over orders drawn from the Plackett-Luce model of s, gains proportional to `w(d) gain(d)`",
    source="Singh and Joachims 2019, Policy learning for fairness in ranking; Oosterhuis 2021, Computationally "
    "efficient optimization of Plackett-Luce ranking models",
    reads_gain=True,
    reads_samples=True,
)
