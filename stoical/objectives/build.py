"""Which objectives a recipe trains on: the loss or what takes its place, and the mitigations that join it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoical.common.numbers import at_least
from stoical.decoding.choices import Reduction
from stoical.encoding.tokenized import Terminator
from stoical.objectives.mitigations.consistency import ConsistencySettings
from stoical.objectives.mitigations.distillation import DistillationSettings
from stoical.objectives.mitigations.expected_reward import ExpectedRewardSettings
from stoical.objectives.mitigations.margin import MarginSettings
from stoical.objectives.mitigations.minimum_risk import MinimumRiskSettings
from stoical.objectives.mitigations.mixer import MixerSettings
from stoical.objectives.mitigations.professor_forcing import ProfessorForcingSettings
from stoical.objectives.mitigations.reinforce import ReinforceSettings
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSamplingSettings
from stoical.objectives.mitigations.soft_mixtures import SoftSamplingSettings
from stoical.objectives.mitigations.unlikelihood import UnlikelihoodSettings
from stoical.objectives.objective import Method, Objective
from stoical.objectives.ranking.term import RankingTerm
from stoical.objectives.settings import LossSettings
from stoical.objectives.stoical_loss import SToICaLLoss

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass
class MitigationSettings:
    """Against the mismatch of training and inference: a section a method, off unless given (overlays have examples)."""

    scheduled_sampling: ScheduledSamplingSettings | None = None
    soft_sampling: SoftSamplingSettings | None = None
    consistency: ConsistencySettings | None = None
    mixer: MixerSettings | None = None
    reinforce: ReinforceSettings | None = None
    expected_reward: ExpectedRewardSettings | None = None
    minimum_risk: MinimumRiskSettings | None = None
    distillation: DistillationSettings | None = None
    professor_forcing: ProfessorForcingSettings | None = None
    unlikelihood: UnlikelihoodSettings | None = None
    margin: MarginSettings | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """The methods that are on, by the name of their section."""
        return {name: section for name, section in vars(self).items() if section is not None}

    @property
    def chosen(self) -> list[str]:
        """Names of the methods that are on."""
        return list(self.methods)

    @property
    def within_lists(self) -> list[str]:
        """The methods that are on and have nothing to choose from where a list has one docID."""
        found = {name: method.within_list() for name, method in self.methods.items()}
        return [f"{name}{setting}" for name, setting in found.items() if setting is not None]

    @property
    def with_negatives(self) -> list[str]:
        """The methods that are on and compare with negatives."""
        found = {name: method.needs_negatives() for name, method in self.methods.items()}
        return [f"{name}{setting}" for name, setting in found.items() if setting is not None]

    def check(self, loss: LossSettings, terminator: Terminator, num_negatives: int) -> None:
        """Raise `ValueError` where a method does not go with the loss, the docIDs, the negatives or another method."""
        self._check_negatives(loss, num_negatives)
        if self.chosen and terminator == "none":
            raise ValueError(
                f"mitigations.{self.chosen[0]} conflicts with tokenizer.terminator=none: a walk down the trie must "
                "know where a docID ends; use a terminator"
            )
        for method in self.methods.values():
            method.check()
        replacing = [name for name, method in self.methods.items() if method.replaces_loss]
        paid = [name for name, method in self.methods.items() if method.follows_reward]
        _check_at_most_one(replacing, "both take the place of the loss")
        _check_at_most_one(paid, "both follow the gradient of the expected reward")
        if replacing and loss.ranking_alone:
            raise ValueError(
                f"mitigations.{replacing[0]} conflicts with loss.ranking={loss.ranking}: both take the place of the "
                "loss; choose one, or set loss.ranking_weight"
            )
        for name, method in self.methods.items():
            method.check_loss(name, loss)

    def check_data(self, longest: int, weighted: bool) -> None:
        """Raise `ValueError` where a method makes nothing of the training data.

        Where rows or documents are `weighted`, as no method reads weights; and where the `longest` list has one
        document, and a method walks among the docIDs of a list.

        Whatever it drew would be the gold docID: it repeats the loss, or has no gradient.
        """
        if weighted and self.chosen:
            raise ValueError(
                f"mitigations.{self.chosen[0]} does not read the weights that rows of the training data have (the key "
                "'weight'); leave out the weights, or the mitigation"
            )
        if longest == 1 and self.within_lists:
            raise ValueError(
                f"mitigations.{self.within_lists[0]} walks among the docIDs of a query's list, and every training row "
                "has one: it would repeat the loss, or do nothing; for plain text use an overlay that leaves the trie "
                "(scheduled_sampling_literal, neftune; stoical self-train with bash_literal or rac_text)"
            )

    def check_model(self, config: PreTrainedConfig, split: str | None) -> None:
        """Raise `ValueError` where a method does not go with the model, or with how its weights are `split`."""
        for method in self.methods.values():
            method.check_model(config, split)

    def _check_negatives(self, loss: LossSettings, number: int) -> None:
        at_least("data.num_negatives", number, 0)
        if number and not self.with_negatives and loss.ranking is None:
            raise ValueError(
                f"data.num_negatives={number} has no effect: no mitigation that is on compares with negatives; remove "
                "it, or turn one on that does, such as the overlay margin, or loss.ranking"
            )
        if not number and loss.ranking_loss is not None and loss.ranking_loss.needs_negatives:
            raise ValueError(
                f"loss.ranking={loss.ranking} compares with negatives, and training queries have none: set "
                "data.num_negatives (4, say)"
            )
        if not number and self.with_negatives:
            raise ValueError(
                f"mitigations.{self.with_negatives[0]} compares with negatives, and training queries have none: "
                "set data.num_negatives (4, say)"
            )


def _check_at_most_one(names: list[str], why: str) -> None:
    if len(names) > 1:
        raise ValueError(f"mitigations.{names[0]} conflicts with mitigations.{names[1]}: {why}; choose one")


def build_objectives(
    loss: LossSettings, mitigations: MitigationSettings, score: Reduction = "mean"
) -> dict[str, Objective]:
    """The terms of the training loss by recipe section: SToICaL's `loss` or what replaces it, and what joins it.

    A ranking loss is `ranking`, in the place of `loss` or beside it.

    `score` is how evaluation scores a docID.
    """
    main: dict[str, Objective] = {"loss": SToICaLLoss(loss)}
    joined: dict[str, Objective] = {}
    if loss.ranking is not None:
        main = {"ranking": RankingTerm(loss)} if loss.ranking_alone else main
        joined = {} if loss.ranking_alone else {"ranking": RankingTerm(loss)}
    for name, method in mitigations.methods.items():
        if method.replaces_loss:
            main = {name: method.build(loss, score)}
        else:
            joined[name] = method.build(loss, score)
    return main | joined
