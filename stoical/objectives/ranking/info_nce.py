"""InfoNCE: each document against the docIDs of other queries (van den Oord et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists, weighted_mean
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import LEAST

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] mean over the listed documents of -log of their share among themselves and the negatives.

    The other documents of the list are in no denominator: the order among them does not count.
    """
    negative = lists.real & ~lists.listed
    rivals = lists.scores.masked_fill(~negative, LEAST).logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(lists.scores, rivals.expand_as(lists.scores)) - lists.scores
    return weighted_mean(losses, lists.weight * lists.listed)


INFO_NCE = RankingLoss(
    value,
    formula="`mean_d -log(exp s(d) / (exp s(d) + sum_{d-} exp s(d-)))` over the negatives d-, weighted by w(d)",
    source="van den Oord et al. 2018, Representation learning with contrastive predictive coding",
    needs_negatives=True,
)
