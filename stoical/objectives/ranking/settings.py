"""Which ranking loss to train on, and how: the settings `loss.ranking*` of a recipe."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Literal

from stoical.common.fields import unknown
from stoical.common.numbers import above_zero, at_least, not_negative
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.objectives.ranking.lists import Gain
from stoical.objectives.ranking.loss import RankingLoss
from stoical.objectives.ranking.losses import LOSSES

Ranking = Literal[  # the names in `losses.LOSSES`
    "list_mle",
    "p_list_mle",
    "list_net",
    "softmax",
    "rank_net",
    "lambda_loss",
    "approx_ndcg",
    "adr_mse",
    "softmax_dpo",
    "list_dpo",
    "info_nce",
    "margin_mse",
    "rank_distil",
    "policy_gradient",
]


@dataclass
class RankingSettings:
    """A ranking loss on the exact scores of a query's docIDs, in the place of SToICaL's loss or beside it."""

    ranking: Ranking | None = option(
        None, "a ranking loss on the scores of a query's docIDs (docs/ranking_losses.md), one number a query"
    )
    ranking_weight: float | None = option(
        None, "of ranking: train on SToICaL's loss + weight * the ranking loss; null: on the ranking loss alone"
    )
    ranking_score: Reduction = option("mean", "of ranking: a docID's score, the mean or the sum of its tokens' log p")
    ranking_temperature: float = option(1.0, "of ranking: what scores are divided by; 1 / beta of the DPO losses")
    ranking_gain: Gain = option(
        "log",
        "of ranking=softmax, lambda_loss, approx_ndcg and policy_gradient: what a relevance y counts, log(1 + y), y or "
        "2^y - 1; y is the grade in the data, or n_q + 1 - rank where a list has none",
    )
    ranking_samples: int = option(
        16, "of ranking=policy_gradient and rank_distil: orders drawn of a list of more than 10 documents"
    )

    @property
    def ranking_loss(self) -> RankingLoss | None:
        """The loss of that name; None without one."""
        return None if self.ranking is None else LOSSES[self.ranking]

    @property
    def ranking_alone(self) -> bool:
        """True where the ranking loss takes the place of SToICaL's."""
        return self.ranking is not None and self.ranking_weight is None

    @property
    def unweighted(self) -> str:
        """Why the trie's nodes have no weights in the loss, in words; empty where they have."""
        return f"no node has a weight: the loss is {self.ranking}, of the docIDs' scores" * self.ranking_alone

    def check_ranking(self) -> None:
        """Raise `ValueError` where a setting is unknown, out of range, or set but without effect."""
        if self.ranking is not None and self.ranking not in LOSSES:
            known = ", ".join(LOSSES)
            raise unknown("ranking loss", str(self.ranking), list(LOSSES), f" loss.ranking is one of {known}.")
        for key, kind in (("ranking_score", Reduction), ("ranking_gain", Gain)):
            if getattr(self, key) not in typing.get_args(kind):
                raise ValueError(f"loss.{key}={getattr(self, key)} must be one of {', '.join(typing.get_args(kind))}")
        self._check_effect()
        if self.ranking_weight is not None:
            not_negative("loss.ranking_weight", self.ranking_weight)
        above_zero("loss.ranking_temperature", self.ranking_temperature)
        at_least("loss.ranking_samples", self.ranking_samples, 2)

    def _check_effect(self) -> None:
        loss, readers = self.ranking_loss, {"ranking_gain": "reads_gain", "ranking_samples": "reads_samples"}
        for each in fields(RankingSettings):
            value = getattr(self, each.name)
            if each.name == "ranking" or value == each.default:
                continue
            if loss is None:
                raise ValueError(f"loss.{each.name}={value} has no effect without loss.ranking; set that, or drop it")
            reader = readers.get(each.name)
            if reader is not None and not getattr(loss, reader):
                users = ", ".join(name for name, other in LOSSES.items() if getattr(other, reader))
                raise ValueError(
                    f"loss.{each.name}={value} has no effect with loss.ranking={self.ranking}; drop it, or use {users}"
                )
