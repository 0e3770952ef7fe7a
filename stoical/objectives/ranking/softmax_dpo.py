"""Softmax-DPO: the top document above all others at once, beside a reference model (Chen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.list_dpo import log_ratios
from stoical.objectives.ranking.lists import Lists, above, weighted_mean
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import LEAST

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] -log sigmoid(-log sum_{d'} exp(h(d') - h(d))) of the documents d of rank 1, d' all of a worse rank.

    h is the score minus the reference's. That is the first choice of `list_dpo`, and DPO itself for two documents.
    """
    ratios = log_ratios(lists)
    rivals = ratios[:, None, :].masked_fill(~above(lists), LEAST).logsumexp(dim=2)
    tops = lists.listed & (lists.rank == 1)
    losses = torch.logaddexp(rivals - ratios, torch.zeros_like(ratios))
    return weighted_mean(losses, lists.weight * tops)


SOFTMAX_DPO = RankingLoss(
    value,
    formula="`log(1 + sum_{d': r' > 1} exp(h(d') - h(d)))` for d of rank 1, `h = s - s_0`, s_0 the reference's score",
    source="Chen et al. 2024, On softmax direct preference optimization for recommendation",
    needs_reference=True,
)
