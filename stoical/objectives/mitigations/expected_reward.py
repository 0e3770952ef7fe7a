"""The expected reward of decoding within the trie, and its exact gradient: REINFORCE without the sampling.

REINFORCE and minimum risk estimate sum_d p~(d) R(d), because a sequence model cannot enumerate its outputs. A query's
trie can: one forward holds every p~(d), so the sum is a sum and its gradient has no variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.objectives.mitigations.rewards import Reward, docid_rewards, expected_reward
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_weight
from stoical.trie.node_weights import TargetSettings


@dataclass
class ExpectedRewardSettings(Method):
    """The exact expected reward beside the loss."""

    follows_reward: ClassVar[bool] = True

    weight: float = option(1.0, "of -J, per query, in a loss that is SToICaL's + weight * (-J)")
    reward: Reward = option(
        "target",
        "what a docID is worth: target (its share of the recipe's target), gain (in nDCG) or prefix_credit "
        "(`rewards.docid_rewards`)",
    )

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        return "`weight * -sum_d p(d) R(d)` over all docIDs of the query, p within the trie, R the reward"

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        check_weight("expected_reward", self.weight)

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return ExpectedReward(self)


@dataclass(frozen=True)
class ExpectedReward(Objective):
    """Beside SToICaL: minus the expected reward of every query."""

    settings: ExpectedRewardSettings

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries; no unit."""
        rewards = docid_rewards(context.batch, self.settings.reward)
        expected = expected_reward(context.batch, context.node_logprobs, rewards)
        logs = {"expected_reward": float(expected.detach().mean())}
        return ObjectiveOutput(-self.settings.weight * expected.sum(), logs)
