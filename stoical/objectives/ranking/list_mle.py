"""ListMLE: the likelihood of the whole order (Xia et al. 2008)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.objectives.ranking.lists import Lists
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import choice_nll

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] -log of the Plackett-Luce probability of the list; negatives come last in whatever order."""
    return (lists.weight * choice_nll(lists.scores, lists)).sum(dim=1)


LIST_MLE = RankingLoss(
    value,
    formula="`-sum_d w(d) log(exp s(d) / sum_{d': r' >= r} exp s(d'))`, the likelihood of the order",
    source="Xia et al. 2008, Listwise approach to learning to rank",
)
