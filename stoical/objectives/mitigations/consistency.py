"""Consistency regularization: a term that ties what the model predicts on gold prefixes to what it does on its own.

Dimension letters: B queries, M trie nodes, N pairs of positions, I inner nodes, T tokens of the longest docID,
V vocabulary. KL divergences are in nats.

Three terms, since the one of the paper compares distributions at different prefixes:

- `literal`: KL(p_t^tf || p_t^ar), token t after the gold prefix and after the free run's (the mismatch paper's Eq. 1);
- `target`: KL(q_n || p_n) at the nodes n that the free run visits: SToICaL on the model's own prefixes;
- `marginal`: KL(P_t^pi || P_t^theta), where P_t mixes p_n over the prefixes n of t - 1 tokens, drawn by the target (pi)
  or by the model (theta): the same quantity under the two prefix distributions, exact.

The free run is constrained to the trie, so all of it is in the forward pass that the loss has made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stoical.common.lazy import torch
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import (
    counted,
    family_argmax,
    gold_child,
    gumbel,
    listed,
    next_token_logprobs,
    path_sums,
    trie_logprobs,
    visited,
)
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_weight, weighted_nll
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stoical.models.forward import NodeOutput

Mode = Literal["literal", "target", "marginal"]
FreeRun = Literal["greedy", "sampled"]
StopGradient = Literal["none", "tf", "ar"]

TERMS: dict[Mode, str] = {
    "literal": "`weight * sum_t KL(p_t^tf || p_t^ar)`, token t after the gold prefix and after the model's own",
    "target": "`weight * sum_n KL(y_n || p_n)`, target and model at the prefixes n that the model's own walk visits",
    "marginal": "`weight * sum_t KL(P_t^pi || P_t^theta)`, token t after prefixes drawn by target and by model",
}


@dataclass
class ConsistencySettings(Method):
    """Which divergence joins the loss, and how the model's own walk is made (module docstring)."""

    weight: float = option(1.0, "lambda of the mismatch paper's Eq. 1")
    mode: Mode = option("target", "the term: literal, target or marginal")
    free_run: FreeRun | None = option(None, "of mode=literal and target: how the model's own walk is made")
    stop_gradient: StopGradient | None = option(
        None, "of mode=literal: which side is taken as given; tf leaves the gold side alone"
    )

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        return TERMS[self.mode]

    def check(self) -> None:
        """Raise `ValueError` where a setting is missing, or set but without effect."""
        name = "mitigations.consistency"
        check_weight("consistency", self.weight)
        if (self.mode == "marginal") != (self.free_run is None):
            raise ValueError(f"{name}.free_run goes with mode=literal and target: set it there, null with marginal")
        if (self.mode == "literal") != (self.stop_gradient is not None):
            raise ValueError(f"{name}.stop_gradient goes with mode=literal: set it there, and only there")

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return Consistency(self)


def free_run(batch: PackedBatch, node_logprobs: Tensor, kind: FreeRun) -> Tensor:
    """[M] True for nodes on the path that the model writes, constrained to the trie, and for roots."""
    with torch.no_grad():
        steps = trie_logprobs(batch, node_logprobs)
        return visited(batch, family_argmax(batch, gumbel(steps, walks=1) if kind == "sampled" else steps[None]))[0]


def paired_positions(batch: PackedBatch, run: Tensor) -> tuple[Tensor, Tensor]:
    """[N], [N] counted nodes of equal depth on the gold path and on `run` [M], where the prefixes differ.

    Where they do not, both sides are one distribution: no pair, and a divergence of exactly 0.
    """
    trained = counted(batch)
    place = batch.node_row * (int(batch.node_depth.max()) + 1) + batch.node_depth
    on_run = (run & trained).nonzero()[:, 0]
    partner = place.new_full((int(place.max()) + 1,), -1)
    partner[place[on_run]] = on_run
    partner = partner[place]
    gold = visited(batch, gold_child(batch))[0] & trained
    apart = batch.node_parent[partner.clamp(min=0)] != batch.node_parent
    tf = (gold & (partner >= 0) & apart).nonzero()[:, 0]
    return tf, partner[tf]


def literal_kl(tf: Tensor, ar: Tensor, stop_gradient: StopGradient) -> Tensor:
    """Sum of KL(tf || ar), a scalar, over rows of log-probabilities [N, V]; no gradient on the side `stop_gradient`."""
    tf = tf.detach() if stop_gradient == "tf" else tf
    ar = ar.detach() if stop_gradient == "ar" else ar
    return (tf.exp() * (tf - ar)).sum()


def target_kl(batch: PackedBatch, node_logprobs: Tensor, run: Tensor) -> Tensor:
    """Sum of KL(q_n || p_n) over the inner nodes of `run` [M], a scalar.

    Uncounted terminators are left out of the sum over tokens, as they are out of the loss.
    """
    target = torch.where(run[batch.node_parent] & counted(batch), batch.node_target.to(node_logprobs.dtype), 0.0)
    return torch.special.xlogy(target, target).sum() + weighted_nll(node_logprobs, target)


def step_marginals(batch: PackedBatch, visits: Tensor, nodes: Tensor, probs: Tensor) -> Tensor:
    """[B * T, V + 1] the distribution of each query's t-th token where prefixes are drawn with `visits` [M].

    `nodes` [I]: one counted child of every inner node that has one; `probs` [I, V]: the model's next tokens there. The
    last column is the probability that the docID has ended before.
    """
    steps = int(batch.node_depth.max())
    parent = batch.node_parent[nodes]
    place = batch.node_row[nodes] * steps + batch.node_depth[nodes] - 1
    tokens = probs.new_zeros(len(batch.query_ids) * steps, probs.shape[1])
    tokens = tokens.index_add(0, place, visits[parent, None] * probs)
    open_ = torch.zeros_like(visits, dtype=torch.bool)
    open_[parent] = True
    ends = (~open_ & open_[batch.node_parent] & (batch.node_token >= 0)).nonzero()[:, 0]
    ended = visits.new_zeros(len(batch.query_ids), steps + 1)
    ended = ended.index_put((batch.node_row[ends], batch.node_depth[ends]), visits[ends], accumulate=True)
    return torch.cat([tokens, ended.cumsum(dim=1)[:, :-1].reshape(-1, 1)], dim=1)


def marginal_kl(batch: PackedBatch, output: NodeOutput) -> Tensor:
    """Sum over queries and steps t >= 2 of KL(P_t^pi || P_t^theta), a scalar (t = 1 has one prefix, and 0).

    Gradients reach the model through its next tokens and through its probability of the prefixes.
    """
    children = (counted(batch) & listed(batch)).nonzero()[:, 0]
    first = torch.full_like(batch.node_parent, len(batch.node_parent))
    first = first.scatter_reduce(0, batch.node_parent[children], children, "amin")
    nodes = first[first < len(first)]
    probs = next_token_logprobs(output, nodes).exp()
    theta = path_sums(batch, trie_logprobs(batch, output.logprobs)).exp().to(probs.dtype)
    pi = path_sums(batch, batch.node_target.to(probs.dtype).log()).exp()
    later = torch.arange(int(batch.node_depth.max()), device=probs.device).repeat(len(batch.query_ids)) > 0
    tiny = torch.finfo(probs.dtype).tiny
    wanted, actual = (step_marginals(batch, v, nodes, probs)[later].clamp(min=tiny) for v in (pi, theta))
    return (wanted * (wanted.log() - actual.log())).sum()


@dataclass(frozen=True)
class Consistency(Objective):
    """Joins the loss with `weight` times the term of `mode`, summed over positions, under the loss's normalizer."""

    settings: ConsistencySettings

    @property
    def needs_logits(self) -> bool:
        """True for divergences of whole next-token distributions."""
        return self.settings.mode != "target"

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        term = self._term(context)
        return ObjectiveOutput(
            self.settings.weight * term, {"consistency": float(term.detach()) / len(context.batch.query_ids)}
        )

    def _term(self, context: StepContext) -> Tensor:
        batch, settings = context.batch, self.settings
        if settings.mode == "marginal":
            return marginal_kl(batch, context.output)
        assert settings.free_run is not None
        run = free_run(batch, context.node_logprobs, settings.free_run)
        if settings.mode == "target":
            return target_kl(batch, context.node_logprobs, run)
        assert settings.stop_gradient is not None
        tf, ar = (next_token_logprobs(context.output, nodes) for nodes in paired_positions(batch, run))
        return literal_kl(tf, ar, settings.stop_gradient)
