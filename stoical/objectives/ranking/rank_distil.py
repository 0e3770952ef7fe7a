"""RankDistil: the cross-entropy of two Plackett-Luce models, a teacher's and ours (Reddi et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists
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
    """[B] the mean of -log p(order) over orders that the teacher would give, of all documents that it scored.

    Exact for lists of up to `plackett_luce.EXACT` documents; the mean over drawn orders for longer ones.
    """
    scored = lists.real & lists.teacher.isfinite()
    known = replace(lists, real=scored, teacher=torch.where(scored, lists.teacher, 0.0))
    return by_length(known, exactly, by_drawing)


def exactly(lists: Lists) -> Tensor:
    """[B] the sum over all sets that may come first, and all documents that may follow."""
    theirs = set_probs(set_choices(lists.teacher, lists.real), lists.real)
    return -(theirs * lists.weight[:, None, :] * set_choices(lists.scores, lists.real)).sum(dim=(1, 2))


def by_drawing(lists: Lists) -> Tensor:
    """[B] the mean over orders drawn from the teacher."""
    orders = drawn_orders(lists, lists.teacher)
    logps = in_order(lists.weight, orders) * order_choices(lists.scores, lists.real, orders)
    return -logps.sum(dim=2).mean(dim=1)


RANK_DISTIL = RankingLoss(
    value,
    formula="`-E log p(order | s)` over orders drawn from the Plackett-Luce model of the teacher's scores, each choice "
    "weighted by w(d)",
    source="Reddi et al. 2021, RankDistil: knowledge distillation for ranking",
    reads_samples=True,
    needs_teacher=True,
)
