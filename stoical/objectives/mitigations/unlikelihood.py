"""Unlikelihood (Welleck et al. 2019): tokens that should not come next lose probability, by name.

Dimension letters: M trie nodes, N prefixes, C candidates, T tokens of the longest docID, V vocabulary. Values: nats.

At a prefix n the loss gains -sum_c log(1 - p(c | n)) over its candidates c, times the weight that the recipe's loss has
at n, so only prefixes that the recipe trains take part. Which candidates:

- `invalid`: whatever leads to no docID of the query (negatives are invalid), collectively: -log P_valid(n). One term; a
  sum over all invalid tokens is but a lower bound of it, since prod(1 - p_c) >= 1 - sum p_c;
- `siblings`: the tokens that lead to negatives only. Listed documents are relevant whatever their rank, so their tokens
  are none, not even where a one-hot target leaves them no mass;
- `wrong_prediction`: the likeliest token of the vocabulary, where it has no target mass;
- `literal`: the paper's own, the docID's tokens so far but for those with target mass. It was made against repetition
  in prose; docIDs such as "25, 36, 25" repeat tokens for good reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stoical.common.lazy import torch
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import family_argmax, family_sums, listed, next_token_logprobs, valid_logmass
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.objective import (
    Method,
    Objective,
    ObjectiveOutput,
    StepContext,
    check_weight,
    loss_weights,
    weighted_nll,
)
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor

Tokens = Literal["invalid", "siblings", "wrong_prediction", "literal"]

LEAST = 1e-5  # the least that 1 - p counts as, as in the paper's code: where p is nearer to 1, no gradient flows

CANDIDATES: dict[Tokens, str] = {
    "siblings": "the tokens that lead to negatives only",
    "wrong_prediction": "the likeliest token, where it has no target mass",
    "literal": "the docID's tokens so far, but for those with target mass",
}


@dataclass
class UnlikelihoodSettings(Method):
    """Tokens that lose probability by name, beside the loss."""

    weight: float = option(1.0, "of the term in a loss that is SToICaL's + weight * the term (alpha in the paper)")
    tokens: Tokens = option(
        "invalid", "which tokens lose: invalid, siblings, wrong_prediction or literal (module docstring)"
    )

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        if self.tokens == "invalid":
            return "`weight * -log P_valid(n)` at each trained prefix n, P_valid the probability of its valid tokens"
        return f"`weight * -sum_c log(1 - p(c | n))` at each trained prefix n, over {CANDIDATES[self.tokens]}"

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        check_weight("unlikelihood", self.weight)

    def within_list(self) -> str | None:
        """With tokens=invalid."""
        return ".tokens=invalid" if self.tokens == "invalid" else None

    def needs_negatives(self) -> str | None:
        """With tokens=siblings."""
        return ".tokens=siblings" if self.tokens == "siblings" else None

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return Unlikelihood(self, loss)


def log_complement(logprobs: Tensor) -> Tensor:
    """log(1 - p) for log p <= 0, elementwise and exact near both ends; no less than log(LEAST)."""
    bounded = logprobs.clamp(max=math.log1p(-LEAST))
    near_one = (-torch.expm1(bounded)).log()
    return torch.where(bounded > -math.log(2), near_one, torch.log1p(-bounded.exp()))


def unlikelihood(logprobs: Tensor, candidates: tuple[Tensor, Tensor], weights: Tensor) -> Tensor:
    """-sum over `candidates`, (place, token) pairs [C], of weights[place] * log(1 - p[place, token]); a scalar.

    logprobs [N, V] of the next token, weights [N].
    """
    place, token = candidates
    return -(weights[place] * log_complement(logprobs[place, token])).sum()


def trained_prefixes(batch: PackedBatch, weights: Tensor) -> tuple[Tensor, Tensor]:
    """[N] the nodes after which the loss has `weights` [M], and [N] their sum there."""
    total = family_sums(batch, weights)
    prefixes = (total > 0).nonzero()[:, 0]
    return prefixes, total[prefixes]


def _places(batch: PackedBatch, prefixes: Tensor) -> Tensor:
    """[M] the place of each node's parent among `prefixes` [N], or -1. Roots have no parent."""
    place = torch.full_like(batch.node_parent, -1)
    place[prefixes] = torch.arange(len(prefixes), device=prefixes.device)
    return torch.where(batch.node_token >= 0, place[batch.node_parent], -1)


def sibling_candidates(batch: PackedBatch, prefixes: Tensor) -> tuple[Tensor, Tensor]:
    """The children that lead to negatives only, as (place among `prefixes`, token), [C] each."""
    place = _places(batch, prefixes)
    nodes = ((place >= 0) & ~listed(batch)).nonzero()[:, 0]
    return place[nodes], batch.node_token[nodes]


def wrong_predictions(batch: PackedBatch, prefixes: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """The argmax of `logprobs` [N, V] where it is not a token with target mass, as (place, token), [C] each."""
    token = logprobs.detach().argmax(dim=-1)
    place = torch.arange(len(prefixes), device=prefixes.device)
    return _without_targets(batch, prefixes, place, token)


def previous_tokens(batch: PackedBatch, prefixes: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of each prefix, once each, but for those with target mass after it, as (place, token), [C] each."""
    above, steps = prefixes, [batch.node_token[prefixes]]
    for _ in range(int(batch.node_depth.max()) - 1):
        above = batch.node_parent[above]
        steps.append(batch.node_token[above])
    tokens, vocabulary = torch.stack(steps, dim=1), 1 + int(batch.node_token.max())  # [N, T], -1 from the root up
    place = torch.arange(len(prefixes), device=prefixes.device)[:, None]
    pairs: Tensor = torch.unique((place * vocabulary + tokens)[tokens >= 0])
    return _without_targets(batch, prefixes, pairs // vocabulary, pairs % vocabulary)


def _without_targets(batch: PackedBatch, prefixes: Tensor, place: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    targets = (batch.node_target > 0).nonzero()[:, 0]
    vocabulary = 1 + int(torch.cat([batch.node_token, token]).max())
    wanted = batch.node_parent[targets] * vocabulary + batch.node_token[targets]
    kept = ~torch.isin(prefixes[place] * vocabulary + token, wanted)
    return place[kept], token[kept]


@dataclass(frozen=True)
class Unlikelihood(Objective):
    """Joins the loss with `weight` times the term at the prefixes that `loss` trains, under the loss's normalizer."""

    settings: UnlikelihoodSettings
    loss: TargetSettings

    @property
    def needs_logits(self) -> bool:
        """True unless all that leaves the trie loses, which is what its nodes leave."""
        return self.settings.tokens != "invalid"

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        term = self._term(context)
        logs = {"unlikelihood": float(term.detach()) / len(context.batch.query_ids)}
        return ObjectiveOutput(self.settings.weight * term, logs)

    def _term(self, context: StepContext) -> Tensor:
        batch, weights = context.batch, loss_weights(context, self.loss)
        if self.settings.tokens == "invalid":
            return weighted_nll(valid_logmass(batch, context.node_logprobs), weights)
        prefixes, total = trained_prefixes(batch, weights)
        a_child = family_argmax(batch, weights[None])[0, prefixes]
        logprobs = next_token_logprobs(context.output, a_child)
        if self.settings.tokens == "siblings":
            candidates = sibling_candidates(batch, prefixes)
        elif self.settings.tokens == "wrong_prediction":
            candidates = wrong_predictions(batch, prefixes, logprobs)
        else:
            candidates = previous_tokens(batch, prefixes)
        return unlikelihood(logprobs, candidates, total)
