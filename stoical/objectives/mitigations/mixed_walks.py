"""Walks down a trie that the model and an expert share: the prefixes of scheduled sampling.

Dimension letters: B queries, M trie nodes. Probabilities have no unit.

The expert steps to the best-ranked docID below. One forward pass has the model's step at every node, so no kind of walk
needs another. A walk with a source that is not constrained may leave the trie; nothing after that is known, or trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.decoding.choices import Source
from stoical.decoding.walks import (
    family_argmax,
    family_sums,
    gold_child,
    gumbel,
    listed,
    path_sums,
    spelled,
    trie_logprobs,
    visited,
)
from stoical.encoding.packed_batch import PackedBatch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Confidence:
    """The confidence-aware choice (Liu et al. 2021), by the model's probability of the gold token.

    Up to `gold` the gold token is fed, up to `predicted` the model's own, and above it a random one.
    """

    gold: float
    predicted: float

    def choice(self, ours: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
        """Of the places `ours` that may be replaced, by the model's probability `sure` of the gold token there: where
        the model's token is fed, and where a random one.
        """
        scrambled = ours & (sure > self.predicted)
        return ours & (sure > self.gold) & ~scrambled, scrambled


def expert_steps(batch: PackedBatch) -> Tensor:
    """[M] True for the child that the expert steps to from each node. There is none after a negative's prefix."""
    place = torch.arange(len(batch.node_parent), device=batch.node_parent.device)
    return (gold_child(batch)[0, batch.node_parent] == place) & (batch.node_token >= 0) & listed(batch)


def step_probabilities(
    batch: PackedBatch, node_logprobs: Tensor, gold: float, source: Source, confidence: Confidence | None = None
) -> Tensor:
    """[M] the probability of stepping to each node from its parent: the expert's with `gold`, else the model's.

    What siblings lack to 1 is the probability of leaving the trie. 0 at roots; detached.
    """
    with torch.no_grad():
        expert = expert_steps(batch).to(node_logprobs.dtype)
        inner = (batch.node_token >= 0) & listed(batch)
        own = (trie_logprobs(batch, node_logprobs) if source == "constrained" else node_logprobs).exp()
        own = torch.where(inner, own, 0.0)
        if confidence is not None:
            sure = family_sums(batch, own * expert)[batch.node_parent]
            uniform = torch.where(inner, 1 / family_sums(batch, inner.to(own.dtype))[batch.node_parent], 0.0)
            own = torch.where(sure <= confidence.gold, expert, torch.where(sure <= confidence.predicted, own, uniform))
        return gold * expert + (1 - gold) * own


def drawn_steps(batch: PackedBatch, steps: Tensor, source: Source) -> Tensor:
    """[M] for every inner node a child drawn by `steps` [M], or -1 where the draw leaves the trie (and at leaves)."""
    pick = family_argmax(batch, gumbel(steps.log(), walks=1))[0]
    if source == "constrained":
        return pick
    stays = torch.rand(len(pick), device=pick.device) < family_sums(batch, steps)
    return torch.where(stays, pick, -1)


def parallel_walk(batch: PackedBatch, pick: Tensor, passes: int) -> Tensor:
    """[M] the nodes on the path that `pick` [M] makes of the gold one when applied at all positions at once.

    Mihaylova and Martins (2019) for one pass, Duckworth et al. (2019) for more: in each pass token t is the pick after
    the previous pass's prefix, and the tokens are followed as far as the trie has them. With as many passes as a docID
    has tokens, this is the sequential walk.
    """
    steps = int(batch.node_depth.max())
    walk = visited(batch, gold_child(batch))[0]
    for _ in range(passes):
        tokens = batch.node_token.new_full((len(batch.query_ids), steps + 1), -2)
        nodes = (walk & (pick >= 0)).nonzero()[:, 0]
        tokens[batch.node_row[nodes], batch.node_depth[nodes]] = batch.node_token[pick[nodes]]
        walk = spelled(batch, tokens) & listed(batch)
    return walk


def expected_visits(batch: PackedBatch, steps: Tensor) -> Tensor:
    """[M] the probability that a walk by `steps` [M] visits each node, w(child) = w(n) steps(child); 1 at roots."""
    return path_sums(batch, steps.log()).exp()
