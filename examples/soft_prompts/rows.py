"""The rows of the study: settings by name; what is not named is as `stoical soft-prompt` has it."""

from __future__ import annotations

from typing import Any

from stoical.soft_prompts.settings import (
    MixerOptions,
    NegativesOptions,
    ReinforceOptions,
    RiskOptions,
    SamplingOptions,
    SoftPromptSettings,
)

REFERENCE = "cross_entropy"
ROWS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "margin": {},
    "worst_position": {},
    "first_error": {},
    "growing": {},
    "scheduled_sampling": {},
    "scheduled_sampling, linear": {"scheduled_sampling": SamplingOptions(schedule="linear")},
    "scheduled_sampling, soft": {"scheduled_sampling": SamplingOptions(tokens="soft")},
    "scheduled_sampling, confidence": {
        "scheduled_sampling": SamplingOptions(gold_confidence=0.9, random_confidence=0.95, minimum=0.0)
    },
    "reinforce": {"reinforce": ReinforceOptions(samples=2)},  # half as many outputs as by default: the study's time
    "reinforce, exact": {"reinforce": ReinforceOptions(samples=2, reward="exact")},
    "mixer": {"mixer": MixerOptions(samples=2)},
    "minimum_risk": {"minimum_risk": RiskOptions(samples=2)},
    "professor_forcing": {},
    "unlikelihood": {},
    "negatives": {"negatives": NegativesOptions(samples=1)},
    "combined": {"objective": "cross_entropy:0.5,scheduled_sampling:0.3,unlikelihood:0.2"},
    "combined, REINFORCE": {
        "objective": "cross_entropy:0.5,scheduled_sampling:0.3,reinforce:0.2",
        "reinforce": ReinforceOptions(samples=2),
    },
    "combined, growing first": {"objective": "growing:0.5,scheduled_sampling:0.3,unlikelihood:0.2"},
}


def settings_of(row: str, **given: Any) -> SoftPromptSettings:
    """The settings of a row."""
    objective = row.partition(",")[0]
    return SoftPromptSettings(target="-", **({"objective": objective} | ROWS[row] | given))
