"""Scheduled sampling (Bengio et al. 2015) on a trie: train on prefixes that the model itself would write.

Dimension letters: M trie nodes.

A trie knows the rank-aware target of every prefix, so where the model has left the gold path, its target is that of
the prefix it is at (`recompute`: DAgger with an exact expert). And one forward gives the model's free run, token by
token, so sequential sampling needs no second pass: it is a walk. `gold_position` is the literal version, which asks for
the gold docID's token at the same position, whatever the prefix (`gold_position.py`). Where several docIDs share the
first rank, each has a walk (`top_docids.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from stoical.common.lazy import torch
from stoical.common.numbers import at_least
from stoical.common.options import option
from stoical.decoding.choices import Reduction, Source
from stoical.decoding.walks import counted, has_children, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.mitigations.gold_position import gold_position_loss
from stoical.objectives.mitigations.mixed_walks import (
    Confidence,
    drawn_steps,
    expected_visits,
    parallel_walk,
    step_probabilities,
)
from stoical.objectives.mitigations.schedules import ScheduleSettings, gold_at
from stoical.objectives.mitigations.top_docids import take_apart
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, weighted_nll
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor

Drawing = Literal["sequential", "parallel", "expected"]
Target = Literal["recompute", "gold_position"]


@dataclass
class ScheduledSamplingSettings(ScheduleSettings, Method):
    """How prefixes are mixed, and what is asked for after them."""

    replaces_loss: ClassVar[bool] = True
    spans: ClassVar[tuple[str, ...]] = ("half_step",)

    method: Drawing = option(
        "sequential",
        "tokens drawn one after the other (sequential), at all positions at once (parallel), or not drawn: every node "
        "counts as often as it is expected to be visited",
    )
    target: Target = option(
        "recompute", "recompute: of the prefix that was made; gold_position: the gold docID's token at that position"
    )
    source: Source = option("constrained", "the model's tokens: within the trie, or of the whole vocabulary")
    passes: int | None = option(None, "of method=parallel: how often all positions are drawn again")
    gold_confidence: float | None = option(
        None,
        "up to this probability of the gold token it is fed, where the schedule does not say gold "
        "(`mixed_walks.Confidence`)",
    )
    random_confidence: float | None = option(None, "above this probability of the gold token a random one is fed")

    @property
    def summary(self) -> str:
        """What it trains in place of the loss, in one line for the model card."""
        target = "of the prefix reached" if self.target == "recompute" else "that the top docID has at that position"
        return (
            "in place of the loss on the top docID's path: on a path whose tokens are the gold ones with a scheduled "
            f"probability, else the model's own, the cross-entropy to the target {target}"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting is missing, would have no effect, or does not go with another."""
        name = "mitigations.scheduled_sampling"
        self.check_schedule(name)
        if (self.method == "parallel") != (self.passes is not None):
            raise ValueError(f"{name}.passes goes with method=parallel: set it there, and only there")
        if self.passes is not None:
            at_least(f"{name}.passes", self.passes, 1)
        if self.target == "gold_position" and self.method != "parallel":
            raise ValueError(
                f"{name}.target=gold_position conflicts with method={self.method}: its prefixes leave the trie, so "
                "each token costs a forward pass; use method=parallel, sequential with passes = tokens of a docID"
            )
        if self.target == "gold_position" and self.source != "free":
            raise ValueError(f"{name}.target=gold_position leaves the trie whatever is drawn: set source=free")
        if (self.gold_confidence is None) != (self.random_confidence is None):
            raise ValueError(f"{name}.gold_confidence goes with random_confidence: set both, or neither")
        if not 0 <= (self.gold_confidence or 0) <= (self.random_confidence or 0) <= 1:
            raise ValueError(f"{name}: 0 <= gold_confidence <= random_confidence <= 1 must hold")

    def within_list(self) -> str | None:
        """With source=constrained."""
        return ".source=constrained" if self.source == "constrained" else None

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return ScheduledSampling(self)


def thresholds(settings: ScheduledSamplingSettings) -> Confidence | None:
    """The confidence-aware choice that the settings ask for, if they do."""
    if settings.gold_confidence is None or settings.random_confidence is None:
        return None
    return Confidence(settings.gold_confidence, settings.random_confidence)


def visits(batch: PackedBatch, node_logprobs: Tensor, gold: float, settings: ScheduledSamplingSettings) -> Tensor:
    """[M] how often one walk visits each node: 0 or 1 where it is drawn, a probability where it is `expected`.

    Each step is the expert's with probability `gold`. The top docID's path has the 1s at `gold` = 1.
    """
    with torch.no_grad():
        steps = step_probabilities(batch, node_logprobs, gold, settings.source, thresholds(settings))
        if settings.method == "expected":
            return expected_visits(batch, steps)
        pick = drawn_steps(batch, steps, settings.source)
        if settings.passes is not None:
            return parallel_walk(batch, pick, settings.passes).to(node_logprobs.dtype)
        return visited(batch, pick[None])[0].to(node_logprobs.dtype)


@dataclass(frozen=True)
class ScheduledSampling(Objective):
    """In place of the loss on the top docID's path: the same targets on a path that the model had a hand in."""

    settings: ScheduledSamplingSettings

    @property
    def needs_logits(self) -> bool:
        """True where tokens of the whole vocabulary are drawn."""
        return self.settings.target == "gold_position"

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats; `loss_per_token` is what to compare, since walks may end early."""
        settings = self.settings
        gold = gold_at(settings, context.step, context.run_steps)
        if settings.target == "gold_position":
            assert settings.passes is not None
            loss_sum, tokens, logs = gold_position_loss(context, gold, settings.passes, thresholds(settings))
        else:
            loss_sum, tokens, logs = self._recomputed(context, gold)
        logs |= {"gold_probability": gold, "loss_per_token": float(loss_sum.detach() / tokens)}
        return ObjectiveOutput(loss_sum, logs)

    def _recomputed(self, context: StepContext, gold: float) -> tuple[Tensor, Tensor, dict[str, float]]:
        batch, apart = context.batch, take_apart(context.batch)
        weight = apart.summed(visits(apart.batch, context.node_logprobs[apart.origin], gold, self.settings))
        on_gold, share = apart.paths > 0, weight / apart.paths.clamp(min=1)  # the weights are those of all gold paths
        target = torch.where(on_gold[batch.node_parent], batch.node_weights, batch.node_target)
        weights = torch.where(counted(batch), share[batch.node_parent] * target, 0.0)
        ends = ~has_children(batch)
        logs = {
            "off_gold_path": float(torch.where(on_gold, 0.0, weight).sum() / weight.sum()),
            "off_trie_rate": max(0.0, 1 - float(weight[ends].sum()) / len(apart.batch.query_ids)),
        }
        return weighted_nll(context.node_logprobs, weights), weights.sum(), logs
