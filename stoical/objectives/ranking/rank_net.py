"""RankNet: the logistic loss of pairs (Burges et al. 2005)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.objectives.ranking.lists import Lists, above, pair_weights, weighted_mean
from stoical.objectives.ranking.loss import RankingLoss

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] the mean over pairs of a better and a worse rank, negatives among the worse, of -log sigmoid(s - s').

    The paper sums over pairs; the mean keeps lists of all lengths alike.
    """
    losses = -torch.nn.functional.logsigmoid(lists.scores[:, :, None] - lists.scores[:, None, :])
    return weighted_mean(losses, pair_weights(lists, above(lists)))


RANK_NET = RankingLoss(
    value,
    formula="`mean -log sigmoid(s(d) - s(d'))` over pairs of ranks `r < r'`, weighted by `w(d) w(d')`",
    source="Burges et al. 2005, Learning to rank using gradient descent",
)
