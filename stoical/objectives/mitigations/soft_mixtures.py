"""Scheduled sampling with mixtures: where the model's token would be fed, a mean of embeddings that gradients pass.

Dimension letters: B queries, N inputs of the gold paths, U tokens that may be mixed, V vocabulary, M trie nodes.

The first pass is the one that the trainer has anyway: for every input of the gold path it gives logits z. The second
pass is fed sum_v s_v E(v) with s = softmax(alpha z), a soft argmax (Goyal et al. 2017), or the token of largest z with
the gradient of that mean (straight-through). All positions are mixed at once (Mihaylova and Martins 2019), and a mixed
prefix is at no node of the trie, so the targets are the gold docID's at the position (`gold_position.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from stoical.common.lazy import torch
from stoical.common.numbers import above_zero
from stoical.common.options import option
from stoical.decoding.choices import Reduction, Source
from stoical.decoding.walks import gumbel, listed
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.mixtures import Mixture, check_mixable
from stoical.objectives.mitigations.gold_position import gold_inputs, mixed_batch, off_trie_rate
from stoical.objectives.mitigations.schedules import ScheduleSettings, check_span, gold_at, in_steps, sharpness
from stoical.objectives.mitigations.top_docids import context_apart, take_apart
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_at_least, weighted_nll
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from stoical.models.forward import NodeOutput

MixtureKind = Literal["soft", "straight_through"]


@dataclass
class SoftSamplingSettings(ScheduleSettings, Method):
    """What stands in the places of the model's tokens."""

    replaces_loss: ClassVar[bool] = True
    spans: ClassVar[tuple[str, ...]] = ("half_step", "alpha_doubling")
    packed_only: ClassVar[str | None] = "feeds mixtures of tokens in the places of a packed row"

    mixture: MixtureKind = option(
        "soft", "soft: a mean of embeddings; straight_through: the hard token forward, the soft mixture backward"
    )
    source: Source = option(
        "constrained", "mixtures of the prefix's continuations in the trie, or of the whole vocabulary"
    )
    alpha: float = option(1.0, "the weights are softmax(alpha z) of the logits z; 1 / alpha is the temperature")
    alpha_maximum: float | None = option(None, "what alpha rises to; set with alpha_doubling")
    alpha_doubling: float | None = option(None, "optimizer steps in which alpha doubles; below 1: a share of the run")
    gumbel: bool = option(False, "add Gumbel noise to z (Gumbel-softmax)")
    top_k: int | None = option(None, "mix the k tokens of largest z alone")
    through_first_pass: bool = option(True, "whether gradients flow on into the logits z")

    @property
    def summary(self) -> str:
        """What it trains in place of the loss, in one line for the model card."""
        fed = "the mixture" if self.mixture == "soft" else "the likeliest token, with the mixture's gradient,"
        return (
            "in place of the loss on the top docID's path: its targets after prefixes where each token is the gold one "
            f"with a scheduled probability, else {fed} `sum_v softmax(alpha z)_v E(v)` of embeddings, z the logits"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting is missing, would have no effect, or does not go with another."""
        method = "soft_sampling"
        self.check_schedule(f"mitigations.{method}")
        above_zero(f"mitigations.{method}.alpha", self.alpha)
        if (self.alpha_maximum is None) != (self.alpha_doubling is None):
            raise ValueError(f"mitigations.{method}.alpha_maximum goes with alpha_doubling: set both, or neither")
        if self.alpha_maximum is not None and not self.alpha < self.alpha_maximum < math.inf:
            raise ValueError(
                f"mitigations.{method}.alpha_maximum={self.alpha_maximum} must be a finite number above alpha"
            )
        if self.alpha_doubling is not None:
            check_span(f"mitigations.{method}", "alpha_doubling", self.alpha_doubling)
        if self.top_k is not None:
            check_at_least(method, "top_k", self.top_k, 2)  # one token is not a mixture
        if self.mixture == "straight_through" and not self.through_first_pass:
            raise ValueError(
                f"mitigations.{method}.mixture=straight_through conflicts with through_first_pass=false: without that "
                "gradient it feeds plain tokens, as mitigations.scheduled_sampling does with method=parallel"
            )

    def within_list(self) -> str | None:
        """With source=constrained."""
        return ".source=constrained" if self.source == "constrained" else None

    def check_model(self, config: PreTrainedConfig, split: str | None) -> None:
        """Raise `ValueError` where the model's embeddings cannot be mixed."""
        check_mixable(config, split)

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return SoftSampling(self)


def candidates(batch: PackedBatch, output: NodeOutput, chain: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Tokens [U], and [N, U] float32 logits of each in the place of the inputs `chain` [N]; -inf: not to be mixed.

    Within the trie, those are the continuations of the prefix that the input stands after. Differentiable.
    """
    logits = output.logits_at(chain).float()
    if source == "free":
        return torch.arange(logits.shape[1], device=chain.device), logits
    place = torch.full_like(batch.node_token, -1)
    place[batch.node_parent[chain]] = torch.arange(len(chain), device=chain.device)
    child = ((batch.node_token >= 0) & listed(batch) & (place[batch.node_parent] >= 0)).nonzero()[:, 0]
    tokens, column = torch.unique(batch.node_token[child], return_inverse=True)
    allowed = torch.zeros(len(chain), len(tokens), dtype=torch.bool, device=chain.device)
    allowed[place[batch.node_parent[child]], column] = True
    return tokens, logits[:, tokens].masked_fill(~allowed, -torch.inf)


def mixture_weights(scores: Tensor, alpha: float, kind: MixtureKind, top_k: int | None = None) -> tuple[Tensor, Tensor]:
    """[N, U] weights of a mixture by `scores` [N, U], and [N] where the largest score is. Differentiable.

    softmax(alpha scores), over the `top_k` largest (and the k-th's equals); straight-through has that gradient, and the
    value of a one-hot row.
    """
    if top_k is not None:
        least = scores.topk(min(top_k, scores.shape[1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    best = scores.argmax(dim=-1)
    soft = (alpha * scores).softmax(dim=-1)
    if kind == "soft":
        return soft, best
    hard = torch.zeros_like(soft).scatter(1, best[:, None], 1.0)
    return hard + (soft - soft.detach()), best


def soft_prefixes(
    context: StepContext, gold: float, alpha: float, settings: SoftSamplingSettings
) -> tuple[PackedBatch, Mixture, Tensor]:
    """The packed prefixes with the model's tokens of largest score, the mixture in their places, and [N] the tokens.

    Each input stays the gold token with probability `gold`.
    """
    batch, chain = context.batch, gold_inputs(context.batch)
    tokens, scores = candidates(batch, context.output, chain, settings.source)
    if not settings.through_first_pass:
        scores = scores.detach()
    if settings.gumbel:
        scores = scores + gumbel(torch.zeros_like(scores), walks=1)[0]
    weights, best = mixture_weights(scores, alpha, settings.mixture, settings.top_k)
    ours = torch.rand(len(chain), device=chain.device) >= gold
    fed = torch.where(ours, tokens[best], batch.node_token[chain])
    mixed = mixed_batch(batch, chain, fed)
    column = mixed.prompt_width + batch.node_depth[chain] - 1
    return mixed, Mixture(batch.node_row[chain][ours], column[ours], tokens, weights[ours]), fed


@dataclass(frozen=True)
class SoftSampling(Objective):
    """In place of the loss on the top docID's path: its targets, after prefixes that mixtures stand in."""

    settings: SoftSamplingSettings

    @property
    def needs_logits(self) -> bool:
        """Always: they are the scores of a mixture."""
        return True

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats. With a gold probability of 1 no second pass is needed."""
        settings, batch = self.settings, context.batch
        gold = gold_at(settings, context.step, context.run_steps)
        slow = settings.alpha_doubling
        doubling = None if slow is None else in_steps(slow, context.run_steps)
        alpha = sharpness(settings.alpha, settings.alpha_maximum, doubling, context.step)
        logs = {"gold_probability": gold, "alpha": alpha}
        if gold >= 1:
            loss_sum = weighted_nll(context.node_logprobs, batch.node_weights)
        else:
            context = context_apart(context, take_apart(batch))
            batch = context.batch
            mixed, mixture, fed = soft_prefixes(context, gold, alpha, settings)
            loss_sum = weighted_nll(context.forward(mixed, mixture).logprobs, mixed.node_weights)
            logs["replaced_tokens"] = float((fed != batch.node_token[gold_inputs(batch)]).float().mean())
            logs["off_trie_rate"] = off_trie_rate(batch, fed)
        logs["loss_per_token"] = float(loss_sum.detach() / batch.node_weights.sum())
        return ObjectiveOutput(loss_sum, logs)
