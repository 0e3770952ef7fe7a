"""ApproxNDCG: nDCG with smooth ranks (Qin et al. 2010)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.objectives.ranking.lists import Lists, gain_shares, smooth_ranks
from stoical.objectives.ranking.loss import RankingLoss

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] 1 - nDCG, a document's rank being 1 + sum_j sigmoid(s_j - s_i). The lower the temperature, the closer."""
    return 1 - (gain_shares(lists) / (1 + smooth_ranks(lists)).log2()).sum(dim=1)


APPROX_NDCG = RankingLoss(
    value,
    formula="`1 - sum_d G(d) / log2(1 + R(d))`, `R(d) = 1 + sum_{d'} sigmoid(s(d') - s(d))`, G proportional to "
    "`w(d) gain(d)`",
    source="Qin et al. 2010, A general approximation framework for direct optimization of information retrieval "
    "measures",
    reads_gain=True,
)
