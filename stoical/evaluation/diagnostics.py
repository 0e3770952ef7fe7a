"""The mismatch between teacher-forced training and free running, token by token, exact: one forward over the trie.

Dimension letters: M trie nodes, B queries, L tokens of the longest docID. Everything is in nats or a probability.

A position t = 1..L is a docID's t-th token, predicted at a prefix of t - 1 tokens: an inner node n of the trie. There,
q_n is the rank-aware target (`PackedBatch.node_target`) and p_n the model's distribution over the whole vocabulary.
What is averaged over the prefixes is set by who wrote them:

- `teacher_forced`: pi, the target's own distribution over docIDs, whose steps are the q_n;
- `gold`: the best-ranked docID alone;
- `free_running`: the model, decoding within the trie (`walks.reach`);
- `common`: free running, where pi has the prefix too: one target at both, so that only the prefixes differ;
- `unconstrained`: the model, decoding without a trie, as far as it stays in it.

As in `walks`, negatives count as outside. Terminators are tokens like others, whether the loss counts them or not;
without them, a docID that is a prefix of another is passed by, and the chain rule of `diagnose` does not hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stoical.decoding.walks import gold_child, has_children, listed, path_sums, reach, visited
from stoical.encoding.packed_batch import PackedBatch


class Sums(NamedTuple):
    """Sums over a query's prefixes, [B, L] each: their probability, and with it the KL and the valid mass.

    prefixes: the probability that position t is written at all. kl: KL(q_n || p_n). valid: the probability that the
    model's next token stays in the trie. distance: half the sum of |probability - the target's| over what is written
    after t tokens, prefixes and docIDs that have ended: the total variation, where all of it stays in the trie.
    """

    prefixes: Tensor
    kl: Tensor
    valid: Tensor
    distance: Tensor


def diagnose(batch: PackedBatch, node_logprobs: Tensor) -> dict[str, Sums]:
    """The sums for each way of writing prefixes (see the module docstring), float64. The batch holds the whole trie.

    By the chain rule, `teacher_forced` kl summed over positions is KL(pi || p) over the query's docIDs.
    """
    logprobs, target = node_logprobs.detach().double(), batch.node_target.double()
    divergence = torch.where(target > 0, target * (target.log() - logprobs), 0.0)
    prefixes = _prefix_probabilities(batch, logprobs, target)
    found = {}
    for name, probs in prefixes.items():
        found[name] = Sums(
            prefixes=_by_position(batch, probs, target),
            kl=_by_position(batch, probs, divergence),
            valid=_by_position(batch, probs, logprobs.exp()),
            distance=_distance(batch, (probs - prefixes["teacher_forced"]).abs() / 2),
        )
    return found


def _prefix_probabilities(batch: PackedBatch, logprobs: Tensor, target: Tensor) -> dict[str, Tensor]:
    """[M] each: the probability of having written a node's tokens."""
    forced, free = path_sums(batch, target.log()).exp(), reach(batch, logprobs)
    return {
        "teacher_forced": forced,
        "gold": visited(batch, gold_child(batch))[0].double(),
        "free_running": free,
        "common": torch.where(forced > 0, free, 0.0),
        "unconstrained": path_sums(batch, logprobs).exp(),
    }


def _by_position(batch: PackedBatch, prefixes: Tensor, values: Tensor) -> Tensor:
    """[B, L] `values` [M] of listed tokens, weighted by the probability of the prefix before and summed by position.

    A target sums to 1 after every prefix, so with it as the values this is the probability of the prefixes.
    """
    tokens = ((batch.node_token >= 0) & listed(batch)).nonzero()[:, 0]
    place = batch.node_row[tokens], batch.node_depth[tokens] - 1
    sums = values.new_zeros(len(batch.query_ids), int(batch.node_depth.max()))
    return sums.index_put(place, (prefixes[batch.node_parent] * values)[tokens], accumulate=True)


def _distance(batch: PackedBatch, gap: Tensor) -> Tensor:
    """[B, L] `gap` [M] of listed nodes summed by the tokens they have, those of docIDs from their end on."""
    nodes, ends = ((batch.node_token >= 0) & listed(batch)).nonzero()[:, 0], ~has_children(batch)
    place = batch.node_row[nodes], batch.node_depth[nodes] - 1
    empty = gap.new_zeros(len(batch.query_ids), int(batch.node_depth.max()))
    ended = empty.index_put(place, torch.where(ends, gap, 0.0)[nodes], accumulate=True)
    going = empty.index_put(place, torch.where(ends, 0.0, gap)[nodes], accumulate=True)
    return ended.cumsum(dim=1) + going
