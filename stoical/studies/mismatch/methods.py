"""The methods of the exact block: losses and mitigations as recipes have them, and what each tries in tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from stoical.objectives.build import MitigationSettings
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
from stoical.trie.node_weights import TargetSettings

REFERENCE = "teacher forcing"
TIMES = (0.3, 1.0, 3.0)  # what learning rates and weights are multiplied by in tuning
HALVES = (0.15, 0.3, 0.6)  # the share of the run after which half of the tokens are the model's own


@dataclass(frozen=True, slots=True)
class Trial:
    """One way of training: the loss, what joins or replaces it, a factor on the learning rate.

    bash: the share of tokens that the model writes between iterations, if it does (BASH on the trie).
    """

    loss: TargetSettings
    mitigations: MitigationSettings = field(default_factory=MitigationSettings)
    rate: float = 1.0
    bash: float | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table: three trials, made of the loss's beta; `knob` is what differs between them.

    negatives: needs documents off the list. alone: replications are trained one by one, on the tuning's number of them
    and without tuning, since what the method keeps (a discriminator) would be shared.
    """

    trials: Callable[[float], list[Trial]]
    knob: str = "learning rate"
    negatives: bool = False
    alone: bool = False


def _top(beta: float) -> TargetSettings:
    """The paper's token-level loss: targets of the trie, on the top docID's path."""
    return TargetSettings(token="trie", beta=beta)


def by_rate(loss: Callable[[float], TargetSettings], **sections: Any) -> Method:
    """A method without a number of its own tries learning rates."""
    return Method(lambda beta: [Trial(loss(beta), MitigationSettings(**sections), rate) for rate in TIMES])


def by_weight(name: str, section: Any, negatives: bool = False) -> Method:
    """A term beside the loss tries weights."""

    def trials(beta: float) -> list[Trial]:
        weights = [replace(section, weight=section.weight * times) for times in TIMES]
        return [Trial(_top(beta), MitigationSettings(**{name: each})) for each in weights]

    return Method(trials, "weight", negatives)


def by_schedule(name: str, section: Any, key: str = "half_step") -> Method:
    """A schedule tries how soon the model's own tokens come."""

    def trials(beta: float) -> list[Trial]:
        sections = [replace(section, **{key: share}) for share in HALVES]
        return [Trial(_top(beta), MitigationSettings(**{name: each})) for each in sections]

    return Method(trials, "half of the tokens at" if key == "half_step" else key)


def sampling(length: int, **settings: Any) -> Method:
    """Scheduled sampling."""
    return by_schedule("scheduled_sampling", ScheduledSamplingSettings(half_step=0.3, **settings))


def methods(length: int) -> dict[str, Method]:
    """All methods by name, for docIDs of `length` tokens; the first is what the others are compared with."""
    return targets() | own_prefixes(length) | on_docids()


def targets() -> dict[str, Method]:
    """Other targets on the trie's own prefixes."""

    def every_node(visits: str) -> Method:
        return by_rate(
            lambda beta: TargetSettings(token="every_node", beta=beta, visits=visits)  # type: ignore[arg-type]
        )

    return {
        REFERENCE: by_rate(_top),
        "one-hot targets": by_rate(lambda beta: TargetSettings()),
        "every docID (item level)": by_rate(lambda beta: TargetSettings("fractional", beta)),
        "every node, mass": every_node("mass"),
        "every node, uniform": every_node("uniform"),
        "every node, reach": every_node("reach"),
    }


def own_prefixes(length: int) -> dict[str, Method]:
    """Training on prefixes that the model writes, or on what it predicts after them."""
    literal: dict[str, Any] = {"method": "parallel", "target": "gold_position", "source": "free"}
    passes = max(1, length - 1)

    def consistency(mode: str, **settings: Any) -> Method:
        return by_weight("consistency", ConsistencySettings(mode=mode, **settings))  # type: ignore[arg-type]

    def bash(share: float) -> Method:
        return Method(lambda beta: [Trial(_top(beta), rate=rate, bash=share) for rate in TIMES])

    def professor(beta: float) -> list[Trial]:
        section = ProfessorForcingSettings(floor=0.0, width=32)
        return [Trial(_top(beta), MitigationSettings(professor_forcing=section))]

    return {
        "scheduled sampling": sampling(length),
        "scheduled sampling, free": sampling(length, source="free"),
        "scheduled sampling, linear": sampling(length, schedule="linear"),
        "scheduled sampling, exponential": sampling(length, schedule="exponential"),
        "scheduled sampling, expected": sampling(length, method="expected"),
        "scheduled sampling, two-pass": sampling(length, **literal, passes=1),
        "scheduled sampling, literal": sampling(length, **literal, passes=passes),
        "scheduled sampling, confidence": sampling(
            length, **literal, passes=1, gold_confidence=0.9, random_confidence=0.95
        ),
        "scheduled sampling, soft": by_schedule("soft_sampling", SoftSamplingSettings(half_step=0.3)),
        "scheduled sampling, straight-through": by_schedule(
            "soft_sampling", SoftSamplingSettings(half_step=0.3, mixture="straight_through")
        ),
        "consistency, literal": consistency("literal", free_run="greedy", stop_gradient="none"),
        "consistency, literal, tf as given": consistency("literal", free_run="greedy", stop_gradient="tf"),
        "consistency, literal, ar as given": consistency("literal", free_run="greedy", stop_gradient="ar"),
        "consistency, target": consistency("target", free_run="greedy"),
        "consistency, marginal": consistency("marginal"),
        "BASH, 0.1": bash(0.1),
        "BASH, 0.2": bash(0.2),
        "BASH, 0.4": bash(0.4),
        "professor forcing": Method(professor, "none", alone=True),
    }


def on_docids() -> dict[str, Method]:
    """Rewards, risks and margins of whole docIDs, and distillation."""
    return {
        "REINFORCE, leave one out": by_weight("reinforce", ReinforceSettings()),
        "REINFORCE, self-critical": by_weight("reinforce", ReinforceSettings(baseline="greedy")),
        "expected reward, exact": by_weight("expected_reward", ExpectedRewardSettings()),
        "MIXER": by_schedule("mixer", MixerSettings(warmup=0.5, stage=0.1), key="warmup"),
        "minimum risk": by_weight("minimum_risk", MinimumRiskSettings()),
        "unlikelihood, invalid tokens": by_weight("unlikelihood", UnlikelihoodSettings()),
        "unlikelihood, siblings": by_weight("unlikelihood", UnlikelihoodSettings(tokens="siblings"), negatives=True),
        "margin": by_weight("margin", MarginSettings(margin=1.0), negatives=True),
        "prefix margins": by_weight("margin", MarginSettings(margin=1.0, prefix=True), negatives=True),
        "distillation, reverse": by_rate(_top, distillation=DistillationSettings()),
        "distillation, reverse, reach as given": by_rate(_top, distillation=DistillationSettings(stop_reach=True)),
        "distillation, Jensen-Shannon": by_rate(_top, distillation=DistillationSettings(interpolation=0.5)),
        "distillation, Jensen-Shannon, free": by_rate(
            _top, distillation=DistillationSettings(interpolation=0.5, source="free", valid_weight=0.0)
        ),
    }


NAMES = tuple(methods(2))
