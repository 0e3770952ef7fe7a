"""Softmax cross-entropy with graded targets (Bruch et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import LEAST

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] the cross-entropy to each document's share of the gains."""
    return cross_entropy(lists, lists.weight * lists.gain)


def cross_entropy(lists: Lists, masses: Tensor) -> Tensor:
    """[B] -sum_d P(d) log softmax(s)(d) over a list, P its share of the `masses` [B, N]; 0 without any."""
    total = masses.sum(dim=1, keepdim=True)
    shares = masses / torch.where(total > 0, total, 1.0)
    logps = lists.scores.masked_fill(~lists.real, LEAST).log_softmax(dim=1)
    return -torch.where(lists.real, shares * logps, 0.0).sum(dim=1)


SOFTMAX = RankingLoss(
    value,
    formula="`-sum_d P(d) log softmax(s)(d)`, P(d) proportional to `w(d) gain(d)`",
    source="Bruch et al. 2019, An analysis of the softmax cross entropy loss for learning-to-rank with binary "
    "relevance",
    reads_gain=True,
)
