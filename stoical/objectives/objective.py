"""What a term of the training loss is: an `Objective` over a packed batch and its node log-probabilities.

Dimension letters: M trie nodes, B queries. Log-probabilities are float32 and in nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stoical.common.lazy import torch
from stoical.common.numbers import at_least, not_negative
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import reach
from stoical.encoding.packed_batch import PackedBatch
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from stoical.models.forward import NodeOutput

Normalizer = Literal["queries", "points", "weights"]


def weighted_nll(node_logprobs: Tensor, node_weights: Tensor) -> Tensor:
    """-(node_weights * node_logprobs).sum(): Eq. 11 summed over the batch, a scalar in nats; both inputs are [M]."""
    return -(node_weights * node_logprobs).sum()


def normalizer(batch: PackedBatch, kind: Normalizer) -> Tensor:
    """What the loss is divided by, summed over the global batch: queries, Eq. 11 points, or node weights; scalar.

    Queries and points count by their weights in the data.
    """
    if batch.filler:
        return torch.zeros((), device=batch.node_weights.device)
    if kind == "weights":
        return batch.node_weights.sum()
    if kind == "queries":
        return batch.query_weight.sum()
    return torch.tensor(float(batch.num_points), device=batch.node_weights.device)


def divided(loss_sum: Tensor, total: Tensor) -> Tensor:
    """The loss over its normalizer; 0 where a batch weighs nothing."""
    return loss_sum / total.clamp(min=torch.finfo(torch.float32).tiny)


def _no_reference(batch: PackedBatch) -> NodeOutput:
    raise AssertionError("no objective said that it needs a reference")


@dataclass(frozen=True, slots=True)
class StepContext:
    """What an objective sees of one micro-batch.

    output: what `forward.node_logprobs` gave for the batch, with its graph; its hidden states and its logits are there
    if one of the objectives' `needs_hidden` or `needs_logits` is set. step: optimizer steps done so far, of `run_steps`
    in all (None: nobody knows, and no schedule may be in shares of the run). forward: another differentiable pass, for
    log-probabilities alone, over a batch of the caller's making and, as a second argument if wanted, a
    `mixtures.Mixture` in places of its tokens; predict: a pass over tokens, with its logits, in eval mode and without a
    graph; reference: log-probabilities alone, so too, by the model as it was before training, if one of the objectives'
    `needs_reference` is set.
    """

    batch: PackedBatch
    output: NodeOutput
    step: int
    forward: Callable[..., NodeOutput]
    predict: Callable[[PackedBatch], NodeOutput]
    reference: Callable[[PackedBatch], NodeOutput] = _no_reference
    run_steps: int | None = None

    @property
    def node_logprobs(self) -> Tensor:
        """[M] log p(node | its prefix, prompt), nats."""
        return self.output.logprobs


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """loss_sum: a scalar in nats, a sum over the micro-batch, which the trainer normalises; logs: floats to report."""

    loss_sum: Tensor
    logs: dict[str, float] = field(default_factory=dict)


class Method(ABC):
    """The settings of a mitigation, and all that the rest of the library has to know of it.

    A recipe turns it on by giving its section under `mitigations`. A settings class states what differs from here.
    """

    replaces_loss: ClassVar[bool] = False  # it trains in place of the loss
    follows_reward: ClassVar[bool] = False  # it follows the gradient of the expected reward
    trains_on_score: ClassVar[bool] = False  # it reads eval.score, which a resumed run must then keep
    spans: ClassVar[tuple[str, ...]] = ()  # settings in optimizer steps or, below 1, in shares of the run
    packed_only: ClassVar[str | None] = None  # why layout=pointwise cannot run it

    @property
    def follows_length(self) -> bool:
        """True where a schedule is in shares of the run, so that a longer run's steps are other ones."""
        return any(0 < (getattr(self, name) or 0) < 1 for name in self.spans)

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it adds to the loss, or trains in its place, in one line for the model card."""

    @abstractmethod
    def check(self) -> None:
        """Raise `ValueError` where a setting is missing, out of range, or set but without effect."""

    @abstractmethod
    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The term of the training loss, beside the recipe's `loss`; `score` is how evaluation scores a docID."""

    def check_loss(self, name: str, loss: TargetSettings) -> None:
        """Raise `ValueError` where the method, in the section `name`, does not go with the recipe's loss."""
        if self.replaces_loss and (loss.item != "indicator" or loss.token == "every_node"):
            raise ValueError(
                f"mitigations.{name} trains on the top docID's path alone: it goes with loss.item=indicator "
                "and loss.token=one_hot or trie, and this recipe trains other paths too"
            )

    def within_list(self) -> str | None:
        """What makes it choose among the docIDs of one list: a setting, or "" for the method itself; None: nothing."""
        return None

    def needs_negatives(self) -> str | None:
        """What makes it compare with negatives: a setting, or "" for the method itself; None: nothing does."""
        return None

    def check_model(self, config: PreTrainedConfig, split: str | None) -> None:
        """Raise `ValueError` where it does not go with the model, or with how its weights are `split`."""
        return


class Objective(ABC):
    """A term of the training loss. The trainer adds the terms' sums and divides once by the global normalizer.

    Most are a function of the context and nothing else. One that keeps something of its own (a discriminator, a running
    mean) overrides `after_step` and the state's two methods.
    """

    needs_whole_trie: ClassVar[bool] = True  # every trie node is in the batch, also those without weight
    needs_hidden: ClassVar[bool] = False  # the output holds the hidden states
    keeps_state: ClassVar[bool] = False  # a checkpoint holds its `state_dict`

    @property
    def needs_logits(self) -> bool:
        """True where it reads `output.logits`: a large vocabulary's take much memory, and are not kept for others."""
        return False

    @property
    def needs_reference(self) -> bool:
        """True where it compares with the model as it was before training."""
        return False

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


def check_weight(method: str, weight: float) -> None:
    """Raise `ValueError` unless the weight of a term of the loss is a finite number, 0 or more."""
    not_negative(f"mitigations.{method}.weight", weight)


def check_at_least(method: str, key: str, value: int, least: int) -> None:
    """Raise `ValueError` where a count is smaller than it can be."""
    at_least(f"mitigations.{method}.{key}", value, least)
