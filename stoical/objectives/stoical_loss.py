"""SToICaL and the objectives that may join it: functions of a packed batch and its node log-probabilities.

Dimension letters: M trie nodes, D docIDs, B queries. Log-probabilities are float32 and in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoical.objectives.objective import Objective, ObjectiveOutput, StepContext, loss_weights, weighted_nll
from stoical.trie.node_weights import TargetSettings


@dataclass(frozen=True)
class SToICaLLoss(Objective):
    """The paper's loss (Eq. 11), with the node weights that the collator packed; `reach` multiplies in v(u)."""

    settings: TargetSettings
    needs_whole_trie: bool = False  # what carries no weight may be left out

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        return ObjectiveOutput(weighted_nll(context.node_logprobs, loss_weights(context, self.settings)))
