"""The expected reward of decoding within the trie, and its exact gradient: REINFORCE without the sampling.

REINFORCE and minimum risk estimate sum_d p~(d) R(d), because a sequence model cannot enumerate its outputs. A query's
trie can: one forward holds every p~(d), so the sum is a sum and its gradient has no variance.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoical.losses import Objective, ObjectiveOutput, StepContext
from stoical.mitigations.checks import check_weight
from stoical.mitigations.rewards import Reward, docid_rewards, expected_reward


@dataclass
class ExpectedRewardSettings:
    """weight: of -J, per query, in a loss that is SToICaL's + weight * (-J). reward: `rewards.docid_rewards`."""

    weight: float = 1.0
    reward: Reward = "target"

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        return "`weight * -sum_d p(d) R(d)` over all docIDs of the query, p within the trie, R the reward"

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        check_weight("expected_reward", self.weight)


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
