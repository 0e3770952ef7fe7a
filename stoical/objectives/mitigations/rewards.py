"""What a docID is worth once it is written, and how much of that its prefixes still promise.

Dimension letters: M trie nodes, B queries. Rewards lie between 0 and 1 and carry no gradient; negatives earn 0.

Decoding within the trie writes docID d with the probability p~(d): the product of `walks.trie_logprobs` down to its
leaf. What the model gives to invalid tokens cancels there, so no reward changes it: that stays the SToICaL loss's work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stoical.common.lazy import torch
from stoical.decoding.walks import has_children, listed, path_sums, trie_logprobs
from stoical.encoding.packed_batch import PackedBatch

if TYPE_CHECKING:
    from torch import Tensor

Reward = Literal["target", "gain", "prefix_credit"]


def leaves(batch: PackedBatch) -> Tensor:
    """[M] True where a docID that is not a negative ends. Terminators make every end a leaf. The trie is whole."""
    return ~has_children(batch) & listed(batch)


def docid_rewards(batch: PackedBatch, kind: Reward) -> Tensor:
    """[M] R(d) at the leaf of docID d, 0 at other nodes.

    `target`: the docID's share of the recipe's target over that of the best one, which is mu(r) / mu(1), or
    lambda(r) / lambda(1) where the recipe has no beta (for next-token prediction 1 for d_1 alone). `gain`: its gain in
    nDCG over the best one's, log(n_q + 2 - r) / log(n_q + 1). `prefix_credit`: the mean over its tokens of the best
    `target` reward below each, so a wrong docID is paid for every token that it shares with a right one. Unlike
    potential-based shaping (`reinforce.returns_to_go`) this changes the objective.
    """
    leaf = leaves(batch)
    values = _gains(batch, leaf) if kind == "gain" else path_sums(batch, batch.node_target.double().log()).exp()
    values = torch.where(leaf, values, 0.0)
    best = values.new_zeros(len(batch.query_ids)).scatter_reduce(0, batch.node_row, values, "amax")
    rewards = (values / best[batch.node_row]).to(batch.node_target.dtype)
    if kind != "prefix_credit":
        return rewards
    credit = path_sums(batch, best_below(batch, rewards)) / batch.node_depth.clamp(min=1)
    return torch.where(leaf, credit, 0.0)


def _gains(batch: PackedBatch, leaf: Tensor) -> Tensor:
    """[M] `evaluation.paper.gold_gains` at leaves."""
    docs = torch.zeros(len(batch.query_ids), device=leaf.device, dtype=torch.float64)
    docs = docs.index_add(0, batch.node_row, leaf.double())[batch.node_row]
    return (docs + 2 - batch.node_rank).clamp(min=1).log()


def best_below(batch: PackedBatch, rewards: Tensor) -> Tensor:
    """[M] the largest of `rewards` [M] among the leaves at or below each node."""
    best = rewards
    for depth in range(int(batch.node_depth.max()), 0, -1):
        level = (batch.node_depth == depth).nonzero()[:, 0]
        best = best.scatter_reduce(0, batch.node_parent[level], best[level], "amax")
    return best


def expected_reward(batch: PackedBatch, node_logprobs: Tensor, rewards: Tensor) -> Tensor:
    """[B] J = sum over docIDs of p~(d) R(d), exact and differentiable: every p~(d) is in the one forward."""
    probs = path_sums(batch, trie_logprobs(batch, node_logprobs)).exp()
    return (probs * rewards).new_zeros(len(batch.query_ids)).index_add(0, batch.node_row, probs * rewards)
