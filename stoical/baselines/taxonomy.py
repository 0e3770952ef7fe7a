"""Embed a taxonomy and reconstruct it: the protocol of Nickel and Kiela (2017), in Euclidean and hyperbolic space.

Train and test are the same pairs: (node, ancestor) for every node of the transitive closure. What is measured is how
well so few numbers a node hold them, not what was learned about others.

Dimension letters: V nodes, d numbers a node, P pairs of the closure, B pairs of a batch, K negatives a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stoical.baselines.items import shuffle
from stoical.baselines.options import Space
from stoical.common.arrays import Bools, Ints
from stoical.common.progress import progress

EDGE = 1e-5  # how close to the ball's edge a node may come
START = 1e-3  # nodes start uniformly in [-START, START]
TINY = 1e-12  # squared distances below it have no gradient
CHUNK = 1 << 24  # distances held at once while measuring


@dataclass(frozen=True, slots=True)
class Closure:
    """The names of V nodes, and P pairs of (node, ancestor), sorted, as places among the names."""

    names: list[str]
    child: Ints
    ancestor: Ints

    @classmethod
    def of(cls, parents: Mapping[str, Iterable[str]], root: str) -> Closure:
        """Of the nodes below `root` and itself, on all paths; `parents` names the nodes right above each."""
        above: dict[str, set[str]] = {}

        def ancestors(name: str) -> set[str]:
            if name not in above:
                direct = set(parents[name])
                above[name] = direct.union(*map(ancestors, direct))
            return above[name]

        names = [name for name in parents if name == root or root in ancestors(name)]
        place = {name: number for number, name in enumerate(names)}
        pairs = [(place[name], place[one]) for name in names for one in ancestors(name) if one in place]
        found = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
        return cls(names, found[:, 0], found[:, 1])

    @property
    def keys(self) -> Ints:
        """[P] a number a pair, ascending, by which a pair is looked up."""
        return self.child * len(self.names) + self.ancestor


def squared(left: Tensor, right: Tensor) -> Tensor:
    """[..] squared Euclidean distance of vectors [.., d]."""
    return (left - right).square().sum(dim=-1)


def distance(space: Space, left: Tensor, right: Tensor) -> Tensor:
    """[..] Euclidean, or hyperbolic in the Poincaré ball (their Eq. 1)."""
    if space == "euclidean":
        return squared(left, right).clamp_min(TINY).sqrt()
    room = (1 - left.square().sum(dim=-1)) * (1 - right.square().sum(dim=-1))
    return torch.acosh(1 + (2 * squared(left, right) / room).clamp_min(TINY))


def descend(space: Space, rows: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """[rows, d] after a step of (Riemannian) SGD: in the ball, the Euclidean gradient times (1 - |x|^2)^2 / 4."""
    if space == "euclidean":
        return rows - rate * gradient
    moved = rows - rate * (1 - rows.square().sum(dim=1, keepdim=True)).square() / 4 * gradient
    return torch.renorm(moved, p=2, dim=0, maxnorm=1 - EDGE)


def batch_loss(space: Space, child: Tensor, ancestor: Tensor, negative: Tensor, masked: Tensor) -> Tensor:
    """The sum over a batch of -log exp(-D(u, v)) / (that + sum of exp(-D(u, v')) over the negatives v') (their Eq. 6).

    child, ancestor [B, d], negative [B, K, d]; `masked` [B, K]: negatives that are none.
    """
    own = -distance(space, child, ancestor)
    others = -distance(space, child[:, None], negative)
    logits = torch.cat([own[:, None], others.masked_fill(masked, -torch.inf)], dim=1)
    return (torch.logsumexp(logits, dim=1) - own).sum()


@dataclass
class Embedding:
    """Vectors [V, d] of a closure's nodes in float64, in training; epochs and batches follow from the seed alone."""

    closure: Closure
    space: Space
    table: Tensor
    seed: int

    @classmethod
    def start(cls, closure: Closure, space: Space, dim: int, seed: int) -> Embedding:
        """Untrained: around the origin."""
        generator = torch.Generator().manual_seed(seed)
        table = torch.rand(len(closure.names), dim, generator=generator, dtype=torch.float64)
        return cls(closure, space, START * (2 * table - 1), seed)

    def epoch(self, number: int, rate: float, size: int, negatives: int) -> float:
        """One pass over the pairs in batches; the mean loss of a pair (nats)."""
        order, keys = shuffle(len(self.closure.child), self.seed, number).numpy(), self.closure.keys
        random, total = np.random.default_rng([self.seed, number, 1]), 0.0
        for start in progress(range(0, len(order), size), f"epoch {number + 1}, pairs in batches"):
            picked = order[start : start + size]
            child, ancestor = self.closure.child[picked], self.closure.ancestor[picked]
            drawn = random.integers(len(self.closure.names), size=(len(picked), negatives))
            wanted = child[:, None] * len(self.closure.names) + drawn
            found = keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted
            total += self._update(child, ancestor, drawn, found | (drawn == child[:, None]), rate)
        if not np.isfinite(total):
            raise ValueError(f"the loss of epoch {number + 1} is not finite; lower rate={rate:g}")
        return total / len(order)

    def _update(
        self,
        child: Ints,
        ancestor: Ints,
        negative: Ints,
        masked: Bools,
        rate: float,
    ) -> float:
        """A step on the rows that a batch touches, each by the sum of its gradients; the summed loss."""
        places = np.concatenate([child, ancestor, negative.ravel()])
        touched, inverse = np.unique(places, return_inverse=True)
        rows = self.table[touched].requires_grad_()
        first, second, rest = torch.split(rows[inverse], [len(child), len(child), negative.size])
        loss = batch_loss(self.space, first, second, rest.view(*negative.shape, -1), torch.from_numpy(masked))
        (gradient,) = torch.autograd.grad(loss, rows)
        self.table[touched] = descend(self.space, rows.detach(), gradient, rate)
        return float(loss.detach())


def reconstruction(embedding: Embedding) -> dict[str, float]:
    """`mean_rank` and `map`, over all pairs of the closure and over all nodes that have ancestors.

    A pair's rank is 1 + how many nodes that are not ancestors of the child are as near to it as the ancestor or nearer
    (equal distances count against). A node's average precision ranks its ancestors among all other nodes.
    """
    closure, table = embedding.closure, embedding.table
    starts = np.searchsorted(closure.child, np.arange(len(closure.names) + 1))
    step = max(1, CHUNK // len(closure.names))
    ranks, precisions = [], []
    for first in progress(range(0, len(closure.names), step), "measuring"):
        near = _nearness(embedding.space, table[first : first + step], table).numpy()
        for place, row in enumerate(near, first):
            own = closure.ancestor[starts[place] : starts[place + 1]]
            if len(own):
                mine = np.sort(row[own])
                row[[place, *own]] = np.inf
                found = 1 + (row <= mine[:, None]).sum(axis=1)
                ranks.append(found)
                precisions.append(np.mean(np.arange(1, len(own) + 1) / (found + np.arange(len(own)))))
    return {"mean_rank": float(np.concatenate(ranks).mean()), "map": float(np.mean(precisions))}


def _nearness(space: Space, some: Tensor, table: Tensor) -> Tensor:
    """[some, V] what orders the nodes as their distance from each of `some` does."""
    near = torch.cdist(some, table).square()
    return near if space == "euclidean" else near / (1 - table.square().sum(dim=1))
