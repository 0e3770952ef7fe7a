"""Recipes of lookup encoders: their sections, the settings that act on them, and checks.

A lookup encoder reads neither prompts nor tokens, so that most settings of a recipe mean nothing to it. Those are
refused where a recipe, an overlay or the command line gives them, and left out of the resolved recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from stoical.common.fields import check_fields
from stoical.common.numbers import above_zero, not_negative
from stoical.common.options import option
from stoical.config.libraries import library_fields

SECTIONS = ("dual_encoder", "cross_encoder")
TRAINING = (  # the fields of TrainingArguments that act on an encoder
    *("max_steps", "learning_rate", "weight_decay", "logging_steps", "eval_strategy", "eval_steps"),
    *("save_steps", "save_total_limit", "disable_tqdm"),
)
ACTS = (  # dotted keys, `*` for any
    *("output", "seed", "global_batch_size", "resume", "resume_force", "dry_run", "data.path"),
    *(
        "loss.item",
        "loss.alpha",
        "eval.recall_at",
        "eval.num_queries",
        "eval.metrics",
        "eval.gains",
        "eval.relevant_above",
    ),
    *(f"training.{key}" for key in TRAINING),
    *(f"{section}*" for section in SECTIONS),
)
NO_LANGUAGE_MODEL = "is a lookup encoder, which train, evaluate and compare take; this needs a language model"
CONSTANT = "constant"  # the schedule of every encoder's learning rate


@dataclass
class DualEncoderSettings:
    """A table of unit vectors: a document's score is its inner product with the query (section 5.3, Eq. 13)."""

    kind: ClassVar[Literal["dual_encoder"]] = "dual_encoder"
    score: ClassVar[str] = "inner product"

    dim: int = option(32, "n, how many numbers the vector of an item has; the paper has 4, 8, 16 and 32")
    temperature: float = option(0.05, "tau, which the inner products of the loss are divided by")
    momentum: float = option(0.9, "of SGD, whose step a projection of every row to the unit sphere follows")

    def check(self) -> None:
        """Raise `ValueError` where a value makes no sense."""
        _check_counts({"dual_encoder.dim": self.dim})
        above_zero("dual_encoder.temperature", self.temperature)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"dual_encoder.momentum={self.momentum} must be from 0 to below 1")


@dataclass
class CrossEncoderSettings:
    """A table of vectors and an MLP over the query's and the document's: its output is the score (Eq. 14)."""

    kind: ClassVar[Literal["cross_encoder"]] = "cross_encoder"
    score: ClassVar[str] = "logit"

    dim: int = option(32, "n, how many numbers the vector of an item has; the paper does not say which it took")
    hidden_layers: int = option(3, "of the MLP, 2n units each, with ReLU")
    embedding_std: float = option(
        1.0, "standard deviation of the table's Gaussian start; the paper gives that of the MLP alone, 1/sqrt(2n)"
    )
    decay: Literal["coupled", "decoupled"] = option(
        "decoupled",
        "how Adam takes training.weight_decay: coupled adds it to the gradient (Adam with L2), decoupled shrinks the "
        "weights by themselves (AdamW); the paper says Adam with weight decay",
    )

    def check(self) -> None:
        """Raise `ValueError` where a value makes no sense."""
        _check_counts({"cross_encoder.dim": self.dim, "cross_encoder.hidden_layers": self.hidden_layers})
        above_zero("cross_encoder.embedding_std", self.embedding_std)


EncoderSettings = DualEncoderSettings | CrossEncoderSettings


def acts(key: str) -> bool:
    """True where a dotted key of a recipe means something to an encoder."""
    return any(fnmatchcase(key, pattern) for pattern in ACTS)


def refuse_others(section: str, keys: Iterable[tuple[str, str]]) -> None:
    """Raise `ValueError` for the first of (origin, dotted key) that has no effect on the encoder of a section."""
    for origin, key in keys:
        if not acts(key):
            raise ValueError(
                f"{origin}: {key} has no effect with the section {section}: a lookup encoder has neither prompts nor "
                f"a language model; leave it out (`stoical recipes show` lists what acts)"
            )


def check_training(training: Mapping[str, Any]) -> None:
    """Raise `ValueError` where the fields in TRAINING are of the wrong type or out of range."""
    check_fields("training", training, library_fields("TrainingArguments"), "TrainingArguments")
    _check_counts(
        {f"training.{key}": training[key] for key in ("max_steps", "logging_steps", "eval_steps", "save_steps")}
    )
    for key in ("learning_rate", "weight_decay"):
        not_negative(f"training.{key}", training[key])
    if training["eval_strategy"] not in ("steps", "no"):
        raise ValueError(f"training.eval_strategy={training['eval_strategy']} must be steps or no for an encoder")


def _check_counts(numbers: Mapping[str, Any]) -> None:
    for key, value in numbers.items():
        if isinstance(value, bool) or value != int(value) or value < 1:
            raise ValueError(f"{key}={value} must be a whole number, 1 or more")
