"""ListNet: the cross-entropy of two distributions of the top document (Cao et al. 2007)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.objectives.ranking.lists import Lists
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.softmax import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] the cross-entropy to softmax(y), y being the relevance: n_q for rank 1 down to 0 for negatives, or grades."""
    highest = lists.relevance.amax(dim=1, keepdim=True)
    return cross_entropy(lists, lists.real * lists.weight * (lists.relevance - highest).exp())


LIST_NET = RankingLoss(
    value,
    formula="`-sum_d P(d) log softmax(s)(d)`, P(d) proportional to `w(d) exp(y(d))`, y the grade in the data, or "
    "`n_q + 1 - r`",
    source="Cao et al. 2007, Learning to rank: from pairwise approach to listwise approach",
)
