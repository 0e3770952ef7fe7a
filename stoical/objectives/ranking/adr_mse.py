"""ADR-MSE: the squared error of smooth ranks, discounted (Schlatt et al. 2025, Rank-DistiLLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.objectives.ranking.lists import Lists, above, smooth_ranks, weighted_mean
from stoical.objectives.ranking.loss import RankingLoss

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] mean over the listed documents of (r - R)^2 / log2(1 + r), R being the smooth rank.

    Documents that tie have the mean of their places as r. Negatives have no r of their own, and count in R.
    """
    better = above(lists).sum(dim=1)
    tied = (lists.listed[:, None, :] & (lists.rank[:, None, :] == lists.rank[:, :, None])).sum(dim=2)
    rank = better.to(lists.scores.dtype) + (tied.to(lists.scores.dtype) + 1) / 2
    errors = (rank - smooth_ranks(lists)) ** 2 / (1 + rank).log2()
    return weighted_mean(errors, lists.weight * lists.listed)


ADR_MSE = RankingLoss(
    value,
    formula="`mean_d (r - R(d))^2 / log2(1 + r)`, `R(d) = 1 + sum_{d'} sigmoid(s(d') - s(d))`, weighted by w(d)",
    source="Schlatt et al. 2025, Rank-DistiLLM: closing the effectiveness gap between cross-encoders and LLMs",
)
