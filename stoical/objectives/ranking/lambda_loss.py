"""LambdaLoss for nDCG: NDCG-Loss2++ (Wang et al. 2018)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists, gain_shares
from stoical.objectives.ranking.loss import RankingLoss

if TYPE_CHECKING:
    from torch import Tensor

MU = 10.0  # of the paper's experiments


def value(lists: Lists) -> Tensor:
    """[B] sum over pairs of more and less gain of (rho + mu delta) |G - G'| log2(1 + exp(s' - s)).

    G is the gain over the ideal DCG; rho and delta follow the places that the scores give (`pair_distances`).
    """
    share = gain_shares(lists).detach()
    more = share[:, :, None] - share[:, None, :]
    losses = -torch.nn.functional.logsigmoid(lists.scores[:, :, None] - lists.scores[:, None, :]) / math.log(2)
    counted = (more > 0) & lists.real[:, :, None] & lists.real[:, None, :]
    return torch.where(counted, pair_distances(lists) * more * losses, 0.0).sum(dim=(1, 2))


def pair_distances(lists: Lists) -> Tensor:
    """[B, N, N] rho + mu delta: how much the discounts of two places differ, 0 for a document and itself.

    rho = |1/D(i) - 1/D(j)| (LambdaRank), delta = |1/D(|i - j|) - 1/D(|i - j| + 1)| (Eq. 14), D(i) = log2(1 + i).
    """
    places = predicted_places(lists).to(lists.scores.dtype)
    apart = (places[:, :, None] - places[:, None, :]).abs()
    same = apart == 0
    rho = (_discount(places)[:, :, None] - _discount(places)[:, None, :]).abs()
    delta = (_discount(apart.masked_fill(same, 1.0)) - _discount(apart + 1)).abs()
    return torch.where(same, 0.0, rho + MU * delta)


def _discount(places: Tensor) -> Tensor:
    return 1 / (1 + places).log2()


def predicted_places(lists: Lists) -> Tensor:
    """[B, N] the place of each document by score, from 1; of equal scores the worse rank comes first, padding last."""
    by_rank = (-lists.rank).argsort(dim=1, stable=True)
    scores = lists.scores.detach().masked_fill(~lists.real, -torch.inf).gather(1, by_rank)
    order = by_rank.gather(1, scores.argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1) + 1


LAMBDA_LOSS = RankingLoss(
    value,
    formula="`sum (rho + 10 delta) |G(d) - G(d')| log2(1 + exp(s(d') - s(d)))` over pairs with `G(d) > G(d')`, G "
    "proportional to `w(d) gain(d)` (NDCG-Loss2++)",
    source="Wang et al. 2018, The LambdaLoss framework for ranking metric optimization",
    reads_gain=True,
)
