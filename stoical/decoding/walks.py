"""Walks down the tries of a batch: what the model, decoding within the trie, would write. No forward pass is needed.

Dimension letters: M trie nodes of the batch, K walks of each trie, B queries. Log-probabilities are in nats.

A walk is made by letting every inner node pick one of its children (`family_argmax`) and following the picks from the
root (`visited`). Adding Gumbel noise to log-probabilities before the argmax samples from them (`gumbel`), so one call
draws K independent walks of every query. Negatives are not part of a walk: nodes that lead to them alone count as
invalid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.encoding.packed_batch import PackedBatch
from stoical.trie.node_weights import UNLISTED

if TYPE_CHECKING:
    from torch import Tensor

    from stoical.models.forward import NodeOutput


def listed(batch: PackedBatch) -> Tensor:
    """[M] True where the node leads to a docID of the query that is not a negative."""
    return batch.node_rank < UNLISTED


def counted(batch: PackedBatch) -> Tensor:
    """[M] True where the loss counts the node's token: not at roots, nor at terminators if `count_terminator` is off.

    The batch holds the whole trie.
    """
    on_path = torch.zeros_like(batch.node_token, dtype=torch.bool)
    on_path[batch.doc_path[batch.doc_path >= 0]] = True
    return on_path


def has_children(batch: PackedBatch) -> Tensor:
    """[M] True at inner nodes, roots among them."""
    inner = torch.zeros_like(batch.node_token, dtype=torch.bool)
    inner[batch.node_parent[batch.node_token >= 0]] = True
    return inner


def valid_logmass(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[M] log of the probability that the model, standing at a node's parent, steps to a listed node; 0 at roots.

    Siblings share the number. Differentiable.
    """
    inner = batch.node_token >= 0
    scores = node_logprobs.masked_fill(~(inner & listed(batch)), -torch.inf)
    empty = torch.full_like(scores, -torch.inf)
    top = empty.scatter_reduce(0, batch.node_parent, scores.detach(), "amax")
    top = torch.where(top.isfinite(), top, 0.0)[batch.node_parent]
    family = torch.zeros_like(scores).index_add(0, batch.node_parent, (scores - top).exp())[batch.node_parent]
    return torch.where(inner, family.clamp(min=1e-45).log() + top, 0.0)


def trie_logprobs(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[M] log p of each node among its listed siblings, as a constrained decoder steps; 0 at roots, -inf if unlisted.

    Differentiable.
    """
    renormalised = node_logprobs - valid_logmass(batch, node_logprobs)
    return renormalised.masked_fill(~listed(batch), -torch.inf)


def path_sums(batch: PackedBatch, values: Tensor) -> Tensor:
    """[..., M] for each node, `values` [..., M] summed from the root (not counted) down to it. Differentiable."""
    sums = torch.where(batch.node_token >= 0, values, 0.0)
    for depth in range(2, int(batch.node_depth.max()) + 1):
        level = (batch.node_depth == depth).nonzero()[:, 0]
        sums = sums.index_add(-1, level, sums[..., batch.node_parent[level]])
    return sums


def reach(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[M] v(u): the probability that the model, decoding within the trie, visits each node; 1 at roots, detached."""
    with torch.no_grad():
        return path_sums(batch, trie_logprobs(batch, node_logprobs)).exp()


def gumbel(values: Tensor, walks: int) -> Tensor:
    """[K, M] `values` [M] plus Gumbel noise from torch's generator: the argmax of a family samples its softmax."""
    uniform = torch.rand(walks, *values.shape, device=values.device, dtype=values.dtype)
    tiny = torch.finfo(values.dtype).tiny
    return values - (-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()


def family_argmax(batch: PackedBatch, values: Tensor) -> Tensor:
    """[K, M] for every inner node the child of largest `values` [K, M] (the first of equals); -1 at leaves.

    Roots are not their own children.
    """
    children = (batch.node_token >= 0).nonzero()[:, 0]
    parent = batch.node_parent[children].expand(len(values), -1)
    scores = values[:, children]
    best = torch.full_like(values, -torch.inf).scatter_reduce(1, parent, scores, "amax")
    place = torch.where(scores == best.gather(1, parent), children, values.shape[1])
    first = torch.full_like(values, values.shape[1], dtype=torch.int64).scatter_reduce(1, parent, place, "amin")
    return torch.where(first < values.shape[1], first, -1)


def visited(batch: PackedBatch, pick: Tensor) -> Tensor:
    """[K, M] True at nodes on the walk that follows `pick` [K, M] from the root of their query, and at roots."""
    place = torch.arange(pick.shape[1], device=pick.device)
    return _connected(batch, pick.gather(1, batch.node_parent.expand(len(pick), -1)) == place)


def spelled(batch: PackedBatch, tokens: Tensor) -> Tensor:
    """[M] True where the node is a prefix of its query's row of `tokens` [B, L], and at roots; -2 ends a row."""
    step = (batch.node_depth - 1).clamp(min=0, max=tokens.shape[1] - 1)
    fits = (tokens[batch.node_row, step] == batch.node_token) & (batch.node_depth <= tokens.shape[1])
    return _connected(batch, fits[None])[0]


def _connected(batch: PackedBatch, taken: Tensor) -> Tensor:
    """[K, M] True where all nodes from the root (not counted) down to this one are `taken` [K, M]."""
    on_walk = (batch.node_token < 0).expand(len(taken), -1).clone()
    for depth in range(1, int(batch.node_depth.max()) + 1):
        level = (batch.node_depth == depth).nonzero()[:, 0]
        on_walk[:, level] = on_walk[:, batch.node_parent[level]] & taken[:, level]
    return on_walk


def docid_ends(batch: PackedBatch) -> Tensor:
    """[D] the node where each docID ends: its last one, which is a terminator that does not count where it has one."""
    last = batch.doc_path.gather(1, (batch.doc_path >= 0).sum(dim=1, keepdim=True) - 1)[:, 0]
    terminators = ((batch.node_token >= 0) & ~counted(batch)).nonzero()[:, 0]
    end = torch.arange(len(batch.node_token), device=last.device)
    end[batch.node_parent[terminators]] = terminators
    return end[last]


def top_docs(batch: PackedBatch) -> Tensor:
    """[T >= B] the places of the docIDs of each query's best rank: one a query, or all those that share that rank.

    By query, then as the trie has them: how the list orders docIDs of one rank makes no difference.
    """
    best = batch.node_rank[batch.node_token < 0]
    tops = ((batch.doc_rank == best[batch.doc_query]) & ~batch.doc_negative).nonzero()[:, 0]
    return tops[docid_ends(batch)[tops].argsort()]


def gold_child(batch: PackedBatch) -> Tensor:
    """[1, M] for every inner node the child that leads to its best-ranked docID; from the root, the path of d_1."""
    return family_argmax(batch, -batch.node_rank.double()[None])


def next_token_logprobs(output: NodeOutput, nodes: Tensor) -> Tensor:
    """[N, V] log-probabilities of the next token at the parents of `nodes` [N], in float32 or more."""
    logits = output.logits_at(nodes)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def family_sums(batch: PackedBatch, values: Tensor) -> Tensor:
    """[M] `values` [M] summed over each node's children (roots are not their own); 0 at leaves."""
    own = torch.where(batch.node_token >= 0, values, 0.0)
    return torch.zeros_like(values).index_add(0, batch.node_parent, own)
