"""Exact on-policy distillation: the model's distribution over a query's docIDs against the one that it should have.

Dimension letters: M trie nodes, B queries. Divergences are in nats.

Generalised knowledge distillation (Agarwal et al. 2024) lets the student write, and compares it with a teacher model
along what it wrote. Here the teacher is known in closed form, mu(d) proportional to mu(r) over the docIDs, and one
forward has the student's p(d) of all of them: the expectation over the student's own outputs is a sum. By the chain
rule it is one over nodes, KL(p || mu) = sum_n p(n) KL(p_n || mu_n), where p(n) is the probability that the model writes
prefix n. The other end of the family, KL(mu || p), is the SToICaL loss with item weights mu(r), but for a constant.

`stop_reach` takes p(n) as given, as generalised knowledge distillation takes its samples: its gradient is that of
DAgger, which corrects the model where it goes and does not change where it goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stoical.common.lazy import torch
from stoical.common.numbers import not_negative, within
from stoical.common.options import option
from stoical.decoding.choices import Reduction, Source
from stoical.decoding.walks import family_sums, listed, path_sums, reach, trie_logprobs, valid_logmass
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.mitigations.rewards import leaves
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class DistillationSettings(Method):
    """Which divergence from the target takes the place of the loss, and what its gradient passes through."""

    replaces_loss: ClassVar[bool] = True

    interpolation: float = option(
        1.0,
        "0: KL(mu || p), the loss's own direction; 1: KL(p || mu), over the model's own docIDs; between: the "
        "generalised Jensen-Shannon divergence, whose limits these are (`divergence_terms`)",
    )
    stop_reach: bool = option(
        False, "take the prefixes that the model writes as given: no gradient towards writing others (DAgger)"
    )
    source: Source = option("constrained", "p: within the trie, or of the whole vocabulary (interpolation below 1)")
    valid_weight: float = option(
        1.0, "of -log of the probability of valid tokens, at the prefixes that the model writes within the trie"
    )

    @property
    def summary(self) -> str:
        """What it trains in place of the loss, in one line for the model card."""
        names = {0.0: "KL(mu || p)", 1.0: "KL(p || mu)"}
        name = names.get(self.interpolation, f"the Jensen-Shannon divergence of mu and p at {self.interpolation:g}")
        given = ", summed over the prefixes that the model writes, taken as given" if self.stop_reach else ""
        return (
            f"in place of the loss: {name} over the query's docIDs{given}, p the model's distribution and mu the "
            "target, and `valid_weight * -log P_valid`, P_valid the probability of valid tokens"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        name = "mitigations.distillation"
        within(f"{name}.interpolation", self.interpolation)
        if self.source == "free" and self.interpolation == 1:
            raise ValueError(
                f"{name}.source=free conflicts with interpolation=1: a model that may write anything is infinitely far "
                "from a target that does not; set source=constrained, or interpolation=0.9"
            )
        not_negative(f"{name}.valid_weight", self.valid_weight)

    def check_loss(self, name: str, loss: TargetSettings) -> None:
        """Raise `ValueError` unless the loss has a target over all docIDs, and no setting that would have no effect."""
        if loss.token != "trie" or loss.item != "indicator":
            raise ValueError(
                f"mitigations.{name} takes its target, mu(r) = r^-beta over all docIDs, from the loss and nothing "
                "else: it goes with loss.item=indicator and loss.token=trie (the recipe wordnet_beta2, say)"
            )

    def within_list(self) -> str | None:
        """Always: its target is a distribution over the docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return Distillation(self)


def divergence_terms(log_mu: Tensor, log_p: Tensor, interpolation: float) -> Tensor:
    """What each outcome adds to the divergence of p from mu, for their log-probabilities of one shape.

    With b the interpolation and m = b mu + (1 - b) p, the sum over outcomes is (b KL(mu || m) + (1 - b) KL(p || m)) /
    (b (1 - b)): the generalised Jensen-Shannon divergence, divided so that it becomes KL(mu || p) at 0 and KL(p || mu)
    at 1.
    """
    mu, p = log_mu.exp(), log_p.exp()
    if interpolation == 0:
        return mu * (log_mu - log_p)
    if interpolation == 1:
        return p * (log_p - log_mu)
    ours, theirs = interpolation, 1 - interpolation
    log_m = torch.logaddexp(math.log(ours) + log_mu, math.log(theirs) + log_p)
    return mu * (log_mu - log_m) / theirs + p * (log_p - log_m) / ours


def outside_term(outside: Tensor, interpolation: float) -> Tensor:
    """What outcomes that mu never has add, for the probability `outside` that p has of them: of divergence_terms."""
    return outside * (-math.log(1 - interpolation) / interpolation if interpolation else 0.0)


def docid_divergence(batch: PackedBatch, node_logprobs: Tensor, interpolation: float, source: Source) -> Tensor:
    """[B] the divergence of the model's distribution over docIDs from the target's, exact and differentiable."""
    leaf = leaves(batch).nonzero()[:, 0]
    log_mu = path_sums(batch, _log_targets(batch))[leaf]
    log_p = path_sums(batch, _log_steps(batch, node_logprobs, source))[leaf]
    empty = log_p.new_zeros(len(batch.query_ids))
    found = empty.index_add(0, batch.node_row[leaf], divergence_terms(log_mu, log_p, interpolation))
    if source == "free":
        inside = empty.index_add(0, batch.node_row[leaf], log_p.exp())
        found = found + outside_term(1 - inside, interpolation)
    return found


def visited_divergence(batch: PackedBatch, node_logprobs: Tensor, interpolation: float, source: Source) -> Tensor:
    """[B] the divergence of next tokens at each prefix, times the probability, as given, that the model writes it.

    At interpolation 1 the value is `docid_divergence`'s, by the chain rule; its gradient is not.
    """
    steps = _log_steps(batch, node_logprobs, source)
    visits = path_sums(batch, steps.detach()).exp()
    inner = (batch.node_token >= 0) & listed(batch)
    terms = divergence_terms(_log_targets(batch), steps.masked_fill(~inner, 0.0), interpolation)
    found = torch.where(inner, visits[batch.node_parent] * terms, 0.0)
    if source == "free":
        stays = family_sums(batch, torch.where(inner, steps.exp(), 0.0))
        outside = torch.where(leaves(batch) | ~listed(batch), 0.0, 1 - stays)
        found = found + visits * outside_term(outside, interpolation)
    return found.new_zeros(len(batch.query_ids)).index_add(0, batch.node_row, found)


def invalid_nats(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[B] -log P_valid(n) summed over the prefixes n of one docID, in expectation over those that the model writes."""
    visits = reach(batch, node_logprobs)[batch.node_parent]
    share = trie_logprobs(batch, node_logprobs).detach().exp()  # siblings share P_valid: each stands for its part
    own = torch.where(batch.node_token >= 0, visits * share, 0.0)
    nats = -own * valid_logmass(batch, node_logprobs)
    return nats.new_zeros(len(batch.query_ids)).index_add(0, batch.node_row, nats)


def _log_steps(batch: PackedBatch, node_logprobs: Tensor, source: Source) -> Tensor:
    """[M] float64 log-probability of each listed node after its parent, within the trie or as it is; else -inf."""
    logprobs = node_logprobs.double()
    if source == "constrained":
        return trie_logprobs(batch, logprobs)
    return logprobs.masked_fill(~listed(batch), -torch.inf)


def _log_targets(batch: PackedBatch) -> Tensor:
    """[M] float64 log of the target's share of each node; what has underflowed counts as the least float32."""
    return batch.node_target.clamp(min=torch.finfo(torch.float32).tiny).double().log()


@dataclass(frozen=True)
class Distillation(Objective):
    """In place of the loss: the divergence from the target, and the price of invalid tokens."""

    settings: DistillationSettings

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries, in nats."""
        batch, settings = context.batch, self.settings
        divergence = visited_divergence if settings.stop_reach else docid_divergence
        distance = divergence(batch, context.node_logprobs, settings.interpolation, settings.source)
        invalid = invalid_nats(batch, context.node_logprobs)
        logs = {"distillation": float(distance.detach().mean()), "invalid_nats": float(invalid.detach().mean())}
        return ObjectiveOutput((distance + settings.valid_weight * invalid).sum().to(context.node_logprobs.dtype), logs)
