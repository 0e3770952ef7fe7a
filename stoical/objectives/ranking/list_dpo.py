"""List DPO: the likelihood of the whole order, beside a reference model (Rafailov et al. 2023, Appendix A.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.objectives.ranking.lists import Lists
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.plackett_luce import choice_nll

if TYPE_CHECKING:
    from torch import Tensor


def value(lists: Lists) -> Tensor:
    """[B] -log of the Plackett-Luce probability of the list under h, the score minus the reference's."""
    return (lists.weight * choice_nll(log_ratios(lists), lists)).sum(dim=1)


def log_ratios(lists: Lists) -> Tensor:
    """[B, N] the score minus the reference's, both over the temperature, which is 1 / beta."""
    assert lists.reference is not None
    return lists.scores - lists.reference


LIST_DPO = RankingLoss(
    value,
    formula="`-sum_d w(d) log(exp h(d) / sum_{d': r' >= r} exp h(d'))`, `h = s - s_0`, s_0 the reference's score",
    source="Rafailov et al. 2023, Direct preference optimization, Appendix A.3 (Plackett-Luce)",
    needs_reference=True,
)
