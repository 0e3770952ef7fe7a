"""Position-aware ListMLE: the likelihood of the order, its first places counting most (Lan et al. 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import choice_nll

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] ListMLE with the weights alpha(r) = 2^(n - r) - 1 of n documents, over their sum.

    Negatives are among the n, so that the last listed document still counts.
    """
    count = lists.real.sum(dim=1, keepdim=True)
    alpha = torch.where(lists.listed, torch.exp2(-lists.rank.to(lists.scores.dtype)) - torch.exp2(-count), 0.0)
    shares = alpha / alpha.sum(dim=1, keepdim=True).clamp(min=torch.finfo(alpha.dtype).tiny)
    return (shares * lists.weight * choice_nll(lists.scores, lists)).sum(dim=1)


P_LIST_MLE = RankingLoss(
    value,
    formula="`-sum_d a(r) w(d) log(exp s(d) / sum_{d': r' >= r} exp s(d'))`, a(r) proportional to `2^(n - r) - 1`",
    source="Lan et al. 2014, Position-aware ListMLE",
)
