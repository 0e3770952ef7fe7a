"""Mitigations of the mismatch between teacher-forced training and free-running inference, one file a method.

Each is an `Objective`: a function of the batch and its node log-probabilities. A recipe turns one on by giving its
section under `mitigations`; this file says what joins the loss, what takes its place, and what does not go together.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoical.losses import Objective, SToICaLLoss
from stoical.mitigations.consistency import Consistency, ConsistencySettings
from stoical.mitigations.scheduled_sampling import ScheduledSampling, ScheduledSamplingSettings
from stoical.targets import TargetSettings
from stoical.tokenization import Terminator


@dataclass
class MitigationSettings:
    """One section a method, off unless given (an overlay of the same name has settings to start from)."""

    scheduled_sampling: ScheduledSamplingSettings | None = None
    consistency: ConsistencySettings | None = None

    @property
    def chosen(self) -> list[str]:
        """Names of the methods that are on."""
        return [name for name, section in vars(self).items() if section is not None]

    def check(self, loss: TargetSettings, terminator: Terminator) -> None:
        """Raise `ValueError` where a method does not go with the loss, the docIDs or another method."""
        if not self.chosen:
            return
        if terminator == "none":
            raise ValueError(
                f"mitigations.{self.chosen[0]} conflicts with tokenizer.terminator=none: a walk down the trie must "
                "know where a docID ends; use a terminator"
            )
        if self.scheduled_sampling is not None:
            self.scheduled_sampling.check()
            if loss.item != "indicator" or loss.token == "every_node":
                raise ValueError(
                    "mitigations.scheduled_sampling mixes the top docID's path alone: it goes with loss.item=indicator "
                    "and loss.token=one_hot or trie, and this recipe trains other paths too"
                )
        if self.consistency is not None:
            self.consistency.check()


def build_objectives(loss: TargetSettings, mitigations: MitigationSettings) -> list[Objective]:
    """The terms of the training loss: SToICaL, or the method that takes its place, and what is added to it."""
    terms: list[Objective] = [SToICaLLoss(loss)]
    if mitigations.scheduled_sampling is not None:
        terms = [ScheduledSampling(mitigations.scheduled_sampling)]
    if mitigations.consistency is not None:
        terms.append(Consistency(mitigations.consistency))
    return terms
