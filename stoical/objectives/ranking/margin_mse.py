"""MarginMSE: differences of scores as a teacher has them (Hofstätter et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists, above, pair_weights, weighted_mean
from stoical.objectives.ranking.loss import RankingLoss

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] mean over pairs of a better and a worse rank, negatives among the worse, of ((s - s') - (t - t'))^2.

    Documents without a teacher's score t, which are negatives of other queries, make no pair.
    """
    scored = lists.teacher.isfinite()
    teacher = torch.where(scored, lists.teacher, 0.0)
    ours, theirs = (each[:, :, None] - each[:, None, :] for each in (lists.scores, teacher))
    pairs = above(lists) & scored[:, :, None] & scored[:, None, :]
    return weighted_mean((ours - theirs) ** 2, pair_weights(lists, pairs))


MARGIN_MSE = RankingLoss(
    value,
    formula="`mean ((s(d) - s(d')) - (t(d) - t(d')))^2` over pairs of ranks `r < r'`, t the teacher's score",
    source="Hofstätter et al. 2020, Improving efficient neural ranking models with cross-architecture knowledge "
    "distillation",
    needs_teacher=True,
)
