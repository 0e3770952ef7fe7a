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

    @property
    def summary(self) -> str:
        """The rows that it makes, in one line for the model card."""
        target = "of the prefix that this makes" if self.target == "recompute" else "at the same position"
        return f"top docIDs with tokens of the model's own in place of some, trained towards the target {target}"

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
class RacSettings:
    """Reference-answer-based correction: rows whose prompt holds the model's own answer, and whose target corrects it.

    source: answers and corrections out of the row's docIDs, or whatever the model writes, up to `max_tokens`. target:
    what the model writes once it is shown the reference (self_correction), or the row's own target without the answer
    (gold). temperature: of the model's distribution; 0 takes its likeliest token. keep_right: how much of the generated
    rows may be of answers that were right already, which teach to copy them.
    """

    source: Source = "constrained"
    target: Literal["self_correction", "gold"] = "self_correction"
    temperature: float = 0.0
    keep_right: float = 0.0
    max_tokens: int | None = None

    @property
    def summary(self) -> str:
        """The rows that it makes, in one line for the model card."""
        corrected = self.target == "self_correction"
        target = "what the model wrote when it was shown the reference" if corrected else "the row's own documents"
        return f"prompts with the model's own answer in them, trained towards {target}"

    def check(self) -> None:
        """Raise `ValueError` where a setting is out of range or does not go with another."""
        name = "self_training.rac"
        check_temperature(name, self.temperature)
        if not 0 <= self.keep_right < 1:
            raise ValueError(f"{name}.keep_right={self.keep_right} must be at least 0 and below 1: a share of the rows")
        if (self.source == "free") != (self.max_tokens is not None):
            raise ValueError(f"{name}.max_tokens goes with {name}.source=free: set it there, and only there")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"{name}.max_tokens={self.max_tokens} must be at least 1")


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
    rac: RacSettings | None = None

    @property
    def method(self) -> str:
        """The name of the section that is given."""
        return "rac" if self.bash is None else "bash"

    def check(
        self, loss: TargetSettings, mitigations: Sequence[str], terminator: Terminator, training: dict[str, Any]
    ) -> None:
        """Raise `ValueError` where a setting is missing, out of range, or does not go with the rest of the recipe."""
        if self.bash is None and self.rac is None:
            raise ValueError(
                "self_training has no effect without a method: add the overlay bash or rac, or drop the section"
            )
        if self.bash is not None and self.rac is not None:
            raise ValueError("self_training.bash conflicts with self_training.rac: choose one (the other: null)")
        if self.iterations < 1:
            raise ValueError(f"self_training.iterations={self.iterations} must be at least 1; train.py trains without")
        if not 0 < self.share < math.inf:
            raise ValueError(f"self_training.share={self.share} must be a number above 0")
        if terminator == "none":
            raise ValueError(
                "self_training conflicts with tokenizer.terminator=none: a model that writes must know where a docID "
                "ends; use a terminator"
            )
        for key, value in (("save_strategy", "no"), ("save_strategy", "best"), ("save_only_model", True)):
            if training.get(key) == value:
                raise ValueError(
                    f"self_training conflicts with training.{key}={value}: it goes on from the last step's checkpoint"
                )
        if self.bash is not None:
            self.bash.check(loss, mitigations)
        if self.rac is not None:
            self.rac.check()


def check_temperature(section: str, temperature: float) -> None:
    """Raise `ValueError` for what no distribution can be divided by; 0 stands for the likeliest token."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{section}.temperature={temperature} must be a finite number, 0 or more")
