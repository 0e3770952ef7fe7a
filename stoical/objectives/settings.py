"""The section `loss` of a recipe: SToICaL's weights, what the sum is divided by, and a ranking loss if wanted."""

from __future__ import annotations

from dataclasses import dataclass

from stoical.common.options import option
from stoical.objectives.objective import Normalizer
from stoical.objectives.ranking.settings import RankingSettings
from stoical.trie.node_weights import TargetSettings


@dataclass
class LossSettings(RankingSettings, TargetSettings):
    """The paper's loss: a row of the weight table, and what the sum is divided by; and ranking losses."""

    normalizer: Normalizer = option(
        "points",
        "what the summed loss is divided by, over the global batch: queries, points (docIDs that carry loss) or "
        "weights (of the nodes)",
    )

    def check(self) -> None:
        """Raise `ValueError` where a setting is unknown, missing, or set but without effect."""
        super().check()
        self.check_ranking()
        if self.ranking_alone and self.normalizer != "queries":
            raise ValueError(
                f"loss.normalizer={self.normalizer} counts what SToICaL's loss trains, and loss.ranking={self.ranking} "
                "takes its place: set loss.normalizer=queries, or loss.ranking_weight to train both"
            )
