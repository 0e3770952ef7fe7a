"""SToICaL and the objectives that may join it: functions of a packed batch and its node log-probabilities.

Dimension letters: M trie nodes, D docIDs, B queries. Log-probabilities are float32 and in nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from stoical.forward import NodeOutput
from stoical.packing import PackedBatch
from stoical.targets import TargetSettings
from stoical.walks import reach

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


@dataclass(frozen=True, slots=True)
class StepContext:
    """What an objective sees of one micro-batch.

    output: what `forward.node_logprobs` gave for the batch, with its graph; its hidden states are there if one of the
    objectives' `needs_hidden` is set. step: optimizer steps done so far. forward: another differentiable pass, over a
    batch of the caller's making and, as a second argument if wanted, an `embeddings.Mixture` in places of its tokens;
    predict: the same, of tokens, in eval mode and without a graph.
    """

    batch: PackedBatch
    output: NodeOutput
    step: int
    forward: Callable[..., NodeOutput]
    predict: Callable[[PackedBatch], NodeOutput]

    @property
    def node_logprobs(self) -> Tensor:
        """[M] log p(node | its prefix, prompt), nats."""
        return self.output.logprobs


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """loss_sum: a scalar in nats, a sum over the micro-batch, which the trainer normalises; logs: floats to report."""

    loss_sum: Tensor
    logs: dict[str, float] = field(default_factory=dict)


class Objective(ABC):
    """A term of the training loss. The trainer adds the terms' sums and divides once by the global normalizer.

    Most are a function of the context and nothing else. One that keeps something of its own (a discriminator, a running
    mean) overrides `after_step` and the state's two methods.
    """

    needs_whole_trie: bool = True  # must every trie node be in the batch, also those without weight?
    needs_hidden: bool = False  # must the output hold the hidden states?

    @abstractmethod
    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """The term's sum over the micro-batch."""

    def after_step(self) -> None:
        """Called on every process after each optimizer step. Most have nothing to do then."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model, as `torch.save` takes it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint, which is only called with what `state_dict` gave, if not empty."""
        return


def loss_weights(context: StepContext, settings: TargetSettings) -> Tensor:
    """[M] what each node carries in the paper's loss: as packed, and under `reach` times v(u) of its parent u."""
    weights = context.batch.node_weights
    if settings.visits == "reach":
        weights = weights * reach(context.batch, context.node_logprobs)[context.batch.node_parent]
    return weights


@dataclass(frozen=True)
class SToICaLLoss(Objective):
    """The paper's loss (Eq. 11), with the node weights that the collator packed; `reach` multiplies in v(u)."""

    settings: TargetSettings
    needs_whole_trie: bool = False  # what carries no weight may be left out

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        return ObjectiveOutput(weighted_nll(context.node_logprobs, loss_weights(context, self.settings)))
