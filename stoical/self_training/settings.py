"""The `self_training` section of a recipe, and what it does not go with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stoical.mitigations.mixed_walks import Source
from stoical.mixed_prefix import PrefixTarget
from stoical.targets import TargetSettings
from stoical.tokenization import Terminator

Sampler = Literal["parallel", "sequential"]
Per = Literal["token", "sequence"]


@dataclass
class BashSettings:
    """Batch-scheduled sampling: rows whose gold tokens are the model's own with probability `beta`.

    sampler: every token of the model drawn after the gold prefix (parallel, one forward pass) or after the mixed one
    (sequential). per: the choice is made for every token, or once for the whole docID. source: the model's tokens
    within the trie, or of the whole vocabulary. target: of the prefix that was made (recompute), or the gold docID's at
    that position. temperature: of the model's distribution; 0 takes its likeliest token.
    """

    beta: float = 0.2
    sampler: Sampler = "parallel"
    per: Per = "token"
    source: Source = "constrained"
    target: PrefixTarget = "recompute"
    temperature: float = 1.0

    def check(self, loss: TargetSettings, mitigations: Sequence[str]) -> None:
        """Raise `ValueError` where a setting is out of range or does not go with another."""
        name = "self_training.bash"
        if not 0 <= self.beta <= 1:
            raise ValueError(f"{name}.beta={self.beta} must lie between 0 and 1: it is the share of the model's tokens")
        check_temperature(name, self.temperature)
        if self.target == "gold_position" and self.source != "free":
            raise ValueError(f"{name}.target=gold_position leaves the trie whatever is drawn: set {name}.source=free")
        if loss.item != "indicator" or loss.token == "every_node":
            raise ValueError(
                f"{name} trains on the top docID's path alone: it goes with loss.item=indicator and loss.token=one_hot "
                "or trie, and this recipe trains other paths too"
            )
        if mitigations:
            raise ValueError(
                f"{name} conflicts with mitigations.{mitigations[0]}, which follows the whole trie and not the mixed "
                "prefixes; choose one"
            )


@dataclass
class SelfTrainingSettings:
    """How often to generate and train, and one section of a method (an overlay of its name has settings to start from).

    iterations: of generating rows and training on them, after a first training on the dataset alone; each takes
    training.max_steps. start: a run or checkpoint to begin at, in place of that first training. share: generated rows
    for every row of the dataset; both are trained on.
    """

    iterations: int = 2
    start: str | None = None
    share: float = 1.0
    bash: BashSettings | None = None

    @property
    def method(self) -> str:
        """The section that is given."""
        return "bash"

    def check(
        self, loss: TargetSettings, mitigations: Sequence[str], terminator: Terminator, training: dict[str, Any]
    ) -> None:
        """Raise `ValueError` where a setting is missing, out of range, or does not go with the rest of the recipe."""
        if self.bash is None:
            raise ValueError("self_training has no effect without a method: add the overlay bash, or drop the section")
        if self.iterations < 1:
            raise ValueError(f"self_training.iterations={self.iterations} must be at least 1; train.py trains without")
        if not 0 < self.share < math.inf:
            raise ValueError(f"self_training.share={self.share} must be a number above 0")
        if terminator == "none":
            raise ValueError(
                "self_training conflicts with tokenizer.terminator=none: a model that writes must know where a docID "
                "ends; use a terminator"
            )
        for key, value in (("save_strategy", "no"), ("save_only_model", True)):
            if training.get(key) == value:
                raise ValueError(f"self_training conflicts with training.{key}={value}: it goes on from checkpoints")
        self.bash.check(loss, mitigations)


def check_temperature(section: str, temperature: float) -> None:
    """Raise `ValueError` for what no distribution can be divided by; 0 stands for the likeliest token."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{section}.temperature={temperature} must be a finite number, 0 or more")
