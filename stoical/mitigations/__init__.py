"""Mitigations of the mismatch between teacher-forced training and free-running inference, one file a method.

Each is an `Objective`: a function of the batch and its node log-probabilities. A recipe turns one on by giving its
section under `mitigations`; this file says what joins the loss, what takes its place, and what does not go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedConfig

from stoical.embeddings import check_mixable
from stoical.losses import Objective, SToICaLLoss
from stoical.mitigations.consistency import Consistency, ConsistencySettings
from stoical.mitigations.expected_reward import ExpectedReward, ExpectedRewardSettings
from stoical.mitigations.margin import Margin, MarginSettings
from stoical.mitigations.minimum_risk import MinimumRisk, MinimumRiskSettings
from stoical.mitigations.mixer import Mixer, MixerSettings
from stoical.mitigations.professor_forcing import ProfessorForcing, ProfessorForcingSettings
from stoical.mitigations.reinforce import Reinforce, ReinforceSettings
from stoical.mitigations.scheduled_sampling import ScheduledSampling, ScheduledSamplingSettings
from stoical.mitigations.soft_mixtures import SoftSampling, SoftSamplingSettings
from stoical.mitigations.unlikelihood import Unlikelihood, UnlikelihoodSettings
from stoical.scoring import Reduction
from stoical.targets import TargetSettings
from stoical.tokenization import Terminator

IN_PLACE_OF_THE_LOSS = ("scheduled_sampling", "soft_sampling", "mixer")
ON_THE_REWARD = ("mixer", "reinforce", "expected_reward", "minimum_risk")


@dataclass
class MitigationSettings:
    """One section a method, off unless given (`recipes/overlays` has settings to start from)."""

    scheduled_sampling: ScheduledSamplingSettings | None = None
    soft_sampling: SoftSamplingSettings | None = None
    consistency: ConsistencySettings | None = None
    mixer: MixerSettings | None = None
    reinforce: ReinforceSettings | None = None
    expected_reward: ExpectedRewardSettings | None = None
    minimum_risk: MinimumRiskSettings | None = None
    professor_forcing: ProfessorForcingSettings | None = None
    unlikelihood: UnlikelihoodSettings | None = None
    margin: MarginSettings | None = None

    @property
    def chosen(self) -> list[str]:
        """Names of the methods that are on."""
        return [name for name, section in vars(self).items() if section is not None]

    @property
    def with_negatives(self) -> list[str]:
        """Those of them that compare with negatives."""
        siblings = self.unlikelihood is not None and self.unlikelihood.tokens == "siblings"
        return ["unlikelihood.tokens=siblings"] * siblings + ["margin"] * (self.margin is not None)

    def check(self, loss: TargetSettings, terminator: Terminator, num_negatives: int) -> None:
        """Raise `ValueError` where a method does not go with the loss, the docIDs, the negatives or another method."""
        self._check_negatives(num_negatives)
        if not self.chosen:
            return
        if terminator == "none":
            raise ValueError(
                f"mitigations.{self.chosen[0]} conflicts with tokenizer.terminator=none: a walk down the trie must "
                "know where a docID ends; use a terminator"
            )
        for name in self.chosen:
            getattr(self, name).check()
        self._check_at_most_one(IN_PLACE_OF_THE_LOSS, "both take the place of the loss")
        self._check_at_most_one(ON_THE_REWARD, "both follow the gradient of the expected reward")
        for name in IN_PLACE_OF_THE_LOSS:
            if name in self.chosen and (loss.item != "indicator" or loss.token == "every_node"):
                raise ValueError(
                    f"mitigations.{name} trains on the top docID's path alone: it goes with loss.item=indicator "
                    "and loss.token=one_hot or trie, and this recipe trains other paths too"
                )

    @property
    def within_lists(self) -> list[str]:
        """Those of them that have nothing to choose from where a list has one docID."""
        names = ("consistency", "mixer", "reinforce", "expected_reward", "minimum_risk", "professor_forcing")
        found = [name for name in names if name in self.chosen]
        if self.scheduled_sampling is not None and self.scheduled_sampling.source == "constrained":
            found.append("scheduled_sampling.source=constrained")
        if self.soft_sampling is not None and self.soft_sampling.source == "constrained":
            found.append("soft_sampling.source=constrained")
        if self.unlikelihood is not None and self.unlikelihood.tokens == "invalid":
            found.append("unlikelihood.tokens=invalid")
        return found

    def check_lists(self, longest: int) -> None:
        """Raise `ValueError` where the `longest` list has one document, and a method walks among the docIDs of a list.

        Whatever it drew would be the gold docID: it repeats the loss, or has no gradient.
        """
        if longest == 1 and self.within_lists:
            raise ValueError(
                f"mitigations.{self.within_lists[0]} walks among the docIDs of a query's list, and every training row "
                "has one: it would repeat the loss, or do nothing; for plain text use an overlay that leaves the trie "
                "(scheduled_sampling_literal, neftune; self_train.py with bash_literal or rac_text)"
            )

    def check_model(self, config: PreTrainedConfig, split: str | None) -> None:
        """Raise `ValueError` where a method does not go with the model, or with how its weights are `split`."""
        if self.soft_sampling is not None:
            check_mixable(config, split)

    def _check_negatives(self, number: int) -> None:
        if number < 0:
            raise ValueError(f"data.num_negatives={number} must be at least 0")
        if number and not self.with_negatives:
            raise ValueError(
                f"data.num_negatives={number} has no effect: only mitigations.margin and unlikelihood.tokens=siblings "
                "compare with negatives; remove it, or turn one of them on"
            )
        if not number and self.with_negatives:
            raise ValueError(
                f"mitigations.{self.with_negatives[0]} compares with negatives, and training queries have none: "
                "set data.num_negatives (4, say)"
            )

    def _check_at_most_one(self, names: tuple[str, ...], why: str) -> None:
        both = [name for name in names if name in self.chosen]
        if len(both) > 1:
            raise ValueError(f"mitigations.{both[0]} conflicts with mitigations.{both[1]}: {why}; choose one")


def build_objectives(loss: TargetSettings, mitigations: MitigationSettings, score: Reduction) -> list[Objective]:
    """The terms of the training loss: SToICaL, or the method that takes its place, and what is added to it.

    `score` is how evaluation scores a docID.
    """
    return [_main_term(loss, mitigations), *_added_terms(loss, mitigations, score)]


def _main_term(loss: TargetSettings, mitigations: MitigationSettings) -> Objective:
    if mitigations.scheduled_sampling is not None:
        return ScheduledSampling(mitigations.scheduled_sampling)
    if mitigations.soft_sampling is not None:
        return SoftSampling(mitigations.soft_sampling)
    if mitigations.mixer is not None:
        return Mixer(mitigations.mixer)
    return SToICaLLoss(loss)


def _added_terms(loss: TargetSettings, mitigations: MitigationSettings, score: Reduction) -> Iterator[Objective]:
    if mitigations.consistency is not None:
        yield Consistency(mitigations.consistency)
    if mitigations.reinforce is not None:
        yield Reinforce(mitigations.reinforce)
    if mitigations.expected_reward is not None:
        yield ExpectedReward(mitigations.expected_reward)
    if mitigations.minimum_risk is not None:
        yield MinimumRisk(mitigations.minimum_risk)
    if mitigations.professor_forcing is not None:
        yield ProfessorForcing(mitigations.professor_forcing)
    if mitigations.unlikelihood is not None:
        yield Unlikelihood(mitigations.unlikelihood, loss)
    if mitigations.margin is not None:
        yield Margin(mitigations.margin, score)
