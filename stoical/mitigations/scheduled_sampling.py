"""Scheduled sampling (Bengio et al. 2015) on a trie: train on prefixes that the model itself would write.

Dimension letters: M trie nodes, K = 1 walk a query.

A trie knows the rank-aware target of every prefix, so where the model has left the gold path, its target is that of
the prefix it is at (`recompute`: DAgger with an exact expert). And one forward gives the model's constrained free run,
token by token, so sequential sampling needs no second pass: it is a walk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stoical.losses import Objective, ObjectiveOutput, StepContext, weighted_nll
from stoical.mitigations.schedules import Schedule, gold_probability
from stoical.packing import PackedBatch
from stoical.walks import counted, family_argmax, gold_child, gumbel, trie_logprobs, visited


@dataclass
class ScheduledSamplingSettings:
    """schedule, half_step, minimum: of the probability of a gold token (`schedules.gold_probability`)."""

    schedule: Schedule = "inverse_sigmoid"
    half_step: int | None = None
    minimum: float = 0.0

    def check(self) -> None:
        """Raise `ValueError` where a setting is missing or would have no effect."""
        name = "mitigations.scheduled_sampling"
        if (self.schedule == "constant") != (self.half_step is None):
            raise ValueError(f"{name}.half_step goes with every schedule but constant: set it there, and only there")
        if self.half_step is not None and self.half_step < 1:
            raise ValueError(f"{name}.half_step={self.half_step} must be at least 1 (optimizer steps)")
        if not 0 <= self.minimum <= 1:
            raise ValueError(f"{name}.minimum={self.minimum} must lie between 0 and 1")


def mixed_walk(batch: PackedBatch, node_logprobs: Tensor, gold: float) -> Tensor:
    """[K, M] the nodes of one walk a query; each step follows the best-ranked docID with probability `gold`.

    Else it is drawn from the model, constrained to the trie. The first docID's path is the walk at `gold` = 1.
    """
    with torch.no_grad():
        sampled = family_argmax(batch, gumbel(trie_logprobs(batch, node_logprobs), walks=1))
        keep = torch.rand(sampled.shape, device=sampled.device) < gold
        return visited(batch, torch.where(keep, gold_child(batch), sampled))


@dataclass(frozen=True)
class ScheduledSampling(Objective):
    """In place of the loss on the top docID's path: the same targets on a path that the model had a hand in."""

    settings: ScheduledSamplingSettings

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        batch, settings = context.batch, self.settings
        gold = gold_probability(settings.schedule, settings.half_step, settings.minimum, context.step)
        walk = mixed_walk(batch, context.node_logprobs, gold)[0]
        on_gold = visited(batch, gold_child(batch))[0]
        target = torch.where(on_gold[batch.node_parent], batch.node_weights, batch.node_target)
        weights = torch.where(walk[batch.node_parent] & counted(batch), target, 0.0)
        left = (walk & ~on_gold).sum() / walk.sum()
        logs = {"gold_probability": gold, "off_gold_path": float(left)}
        return ObjectiveOutput(weighted_nll(context.node_logprobs, weights), logs)
