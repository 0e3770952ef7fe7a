"""SToICaL and the objectives that may join it: functions of a packed batch and its node log-probabilities.

Dimension letters: M trie nodes, D docIDs, B queries. Log-probabilities are float32 and in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from stoical.packing import PackedBatch
from stoical.targets import TargetSettings

Normalizer = Literal["queries", "points", "weights"]


def weighted_nll(node_logprobs: Tensor, node_weights: Tensor) -> Tensor:
    """-(node_weights * node_logprobs).sum(): Eq. 11 summed over the batch, a scalar in nats; both inputs are [M]."""
    return -(node_weights * node_logprobs).sum()


def normalizer(batch: PackedBatch, kind: Normalizer) -> Tensor:
    """What the loss is divided by, summed over the global batch: queries, Eq. 11 points, or node weights; scalar."""
    if kind == "weights":
        return batch.node_weights.sum()
    count = len(batch.query_ids) if kind == "queries" else batch.num_points
    return torch.tensor(float(count), device=batch.node_weights.device)


def valid_logmass(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[M] log of the probability that the model, standing at a node's parent, steps to a child of the trie; 0 at roots.

    The same number for all siblings.
    """
    probs = torch.where(batch.node_token >= 0, node_logprobs.exp(), 0.0)
    family = torch.zeros_like(probs).index_add(0, batch.node_parent, probs)
    return torch.where(batch.node_token >= 0, family[batch.node_parent].clamp(min=1e-45).log(), 0.0)


def reach(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[M] v(u): the probability that the model, decoding within the trie, visits each node; 1 at roots, detached."""
    with torch.no_grad():
        step = (node_logprobs - valid_logmass(batch, node_logprobs)).exp()
        visits = torch.ones_like(step)
        for depth in range(1, int(batch.node_depth.max()) + 1):
            level = (batch.node_depth == depth).nonzero()[:, 0]
            visits[level] = visits[batch.node_parent[level]] * step[level]
        return visits


@dataclass(frozen=True, slots=True)
class StepContext:
    """What an objective sees of one micro-batch.

    node_logprobs [M] as `forward.node_logprobs` gives them, with their graph; hidden [B, S, H] if the objective's
    `needs_hidden` is set; step: optimizer steps done so far; forward: another pass over a batch of the caller's making.
    """

    batch: PackedBatch
    node_logprobs: Tensor
    step: int
    forward: Callable[[PackedBatch], Tensor]
    hidden: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """loss_sum: a scalar in nats, a sum over the micro-batch, which the trainer normalises; logs: floats to report."""

    loss_sum: Tensor
    logs: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A term of the training loss. The trainer adds the terms' sums and divides once by the global normalizer."""

    @property
    def needs_whole_trie(self) -> bool:
        """Must every trie node be in the batch, also those without weight?"""

    @property
    def needs_hidden(self) -> bool:
        """Must the context hold the hidden states?"""

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """The term's sum over the micro-batch."""


@dataclass(frozen=True, slots=True)
class SToICaLLoss:
    """The paper's loss (Eq. 11), with the node weights that the collator packed; `reach` multiplies in v(u)."""

    settings: TargetSettings
    needs_whole_trie: bool = False  # what carries no weight may be left out
    needs_hidden: bool = False

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        batch, weights = context.batch, context.batch.node_weights
        if self.settings.visits == "reach":
            weights = weights * reach(batch, context.node_logprobs)[batch.node_parent]
        return ObjectiveOutput(weighted_nll(context.node_logprobs, weights))
