"""The `self_training` section of a recipe, and what it does not go with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stoical.common.numbers import above_zero, at_least, not_negative, within
from stoical.common.options import option
from stoical.decoding.choices import Per, Source
from stoical.encoding.tokenized import Terminator
from stoical.trie.mixed_prefix import PrefixTarget
from stoical.trie.node_weights import TargetSettings

Sampler = Literal["parallel", "sequential"]


@dataclass
class BashSettings:
    """Batch-scheduled sampling: rows in which the model's own tokens take the place of some gold ones."""

    beta: float = option(0.2, "the probability that a gold token is replaced by the model's")
    sampler: Sampler = option(
        "parallel",
        "every token of the model drawn after the gold prefix (parallel, one forward pass) or after the mixed one "
        "(sequential)",
    )
    per: Per = option("token", "whether the choice is made for every token, or once for the whole docID")
    source: Source = option("constrained", "the model's tokens: within the trie, or of the whole vocabulary")
    target: PrefixTarget = option(
        "recompute", "recompute: of the prefix that was made; gold_position: the gold docID's at that position"
    )
    temperature: float = option(1.0, "of the model's distribution; 0 takes its likeliest token")

    @property
    def summary(self) -> str:
        """The rows that it makes, in one line for the model card."""
        target = "of the prefix that this makes" if self.target == "recompute" else "at the same position"
        return f"top docIDs with tokens of the model's own in place of some, trained towards the target {target}"

    def check(self, loss: TargetSettings, mitigations: Sequence[str]) -> None:
        """Raise `ValueError` where a setting is out of range or does not go with another."""
        name = "self_training.bash"
        within(f"{name}.beta", self.beta)
        not_negative(f"{name}.temperature", self.temperature)
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
    """Reference-answer-based correction: the model's own answer in the prompt, and its correction as the target."""

    source: Source = option(
        "constrained", "answers and corrections out of the row's docIDs, or whatever the model writes"
    )
    target: Literal["self_correction", "gold"] = option(
        "self_correction",
        "self_correction: what the model writes once it is shown the reference; gold: the row's own target without "
        "the answer",
    )
    temperature: float = option(0.0, "of the model's distribution; 0 takes its likeliest token")
    keep_right: float = option(
        0.0,
        "the largest share of the generated rows that may be of answers that were right already, which teach to copy",
    )
    max_tokens: int | None = option(None, "of source=free: what ends an answer without EOS")

    @property
    def summary(self) -> str:
        """The rows that it makes, in one line for the model card."""
        corrected = self.target == "self_correction"
        target = "what the model wrote when it was shown the reference" if corrected else "the row's own documents"
        return f"prompts with the model's own answer in them, trained towards {target}"

    def check(self) -> None:
        """Raise `ValueError` where a setting is out of range or does not go with another."""
        name = "self_training.rac"
        not_negative(f"{name}.temperature", self.temperature)
        if not 0 <= self.keep_right < 1:
            raise ValueError(f"{name}.keep_right={self.keep_right} must be at least 0 and below 1: a share of the rows")
        if (self.source == "free") != (self.max_tokens is not None):
            raise ValueError(f"{name}.max_tokens goes with {name}.source=free: set it there, and only there")
        if self.max_tokens is not None:
            at_least(f"{name}.max_tokens", self.max_tokens, 1)


@dataclass
class SelfTrainingSettings:
    """How often to generate and train, and one section of a method (the overlays bash and rac have examples)."""

    iterations: int = option(
        2,
        "of generating rows and training on them, after a first training on the dataset alone; each takes "
        "training.max_steps",
    )
    start: str | None = option(None, "a run or checkpoint to begin at, in place of that first training")
    share: float = option(1.0, "generated rows for every row of the dataset; both are trained on")
    bash: BashSettings | None = option(None, "batch-scheduled sampling")
    rac: RacSettings | None = option(None, "reference-answer-based correction")

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
            raise ValueError(
                f"self_training.iterations={self.iterations} must be at least 1; stoical train trains without"
            )
        above_zero("self_training.share", self.share)
        if terminator == "none":
            raise ValueError(
                "self_training conflicts with tokenizer.terminator=none: a model that writes must know where a docID "
                "ends; use a terminator"
            )
        for key, value in (("save_strategy", "no"), ("save_strategy", "best"), ("save_only_model", True)):
            if training.get(key) == value:
                raise ValueError(
                    f"self_training conflicts with training.{key}={value}: it continues from the last step's checkpoint"
                )
        if self.bash is not None:
            self.bash.check(loss, mitigations)
        if self.rac is not None:
            self.rac.check()
