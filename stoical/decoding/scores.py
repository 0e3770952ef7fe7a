"""docID scores out of node log-probabilities (section 5.1).

Dimension letters: M trie nodes, D docIDs, L tokens of the longest docID, B queries, T steps, V vocabulary.

`exact`: every node under its own prefix, all in one forward (`forward.node_logprobs`). The other two modes look up the
t-th token of every docID in the t-th distribution of one greedy rollout, whatever the docID's own prefix is.
`greedy_path`: the rollout keeps to the query's trie, and is read off the exact forward. `free_greedy_path`: the paper's
cheap proxy, whose rollout writes any token of the vocabulary (`sampling.greedy_rollouts`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from stoical.common.lazy import torch
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import family_argmax, next_token_logprobs, top_docs, valid_logmass, visited
from stoical.encoding.packed_batch import PackedBatch

if TYPE_CHECKING:
    from torch import Tensor

    from stoical.models.forward import NodeOutput


def doc_scores(batch: PackedBatch, node_logprobs: Tensor, reduction: Reduction = "mean") -> Tensor:
    """[D] each docID's log-probability in nats, the mean over its counted tokens (section 5.1) or the sum (Eq. 1).

        doc_scores(batch, node_logprobs(model, batch).logprobs, "sum")

    Raises `ValueError` for another reduction, and for a pruned batch: `TrieTargetCollator(prune=False)` packs whole
    tries.
    """
    if batch.num_pruned:
        raise ValueError(
            f"{batch.num_pruned} docIDs are not whole in this batch, so they have no score; "
            "pack it with TrieTargetCollator(prune=False)"
        )
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction={reduction!r} must be one of {', '.join(get_args(Reduction))}")
    on_path = batch.doc_path >= 0
    sums = torch.where(on_path, node_logprobs[batch.doc_path.clamp(min=0)], 0.0).sum(dim=1)
    return sums / on_path.sum(dim=1) if reduction == "mean" else sums


def greedy_path_scores(batch: PackedBatch, output: NodeOutput, reduction: Reduction = "mean") -> Tensor:
    """[D] each docID's score in nats along the likeliest walk down its query's trie; of equal tokens the smaller id.

    The walk ends with a docID, so that a longer docID is scored by the tokens up to there. Negatives are docIDs like
    the others: decoding does not know them. The batch holds the whole trie. No forward pass is run.
    """
    walk = visited(batch, family_argmax(batch, output.logprobs.detach()[None]))[0]
    nodes = (walk & (batch.node_token >= 0)).nonzero()[:, 0]  # one a query and step
    at = batch.node_parent.new_full((len(batch.query_ids), int(batch.node_depth.max()) + 1), -1)
    at[batch.node_row[nodes], batch.node_depth[nodes]] = torch.arange(len(nodes), device=nodes.device)
    step = at[batch.node_row, batch.node_depth]  # [M] -1 at roots, and after the end of the walk
    logprobs = next_token_logprobs(output, nodes)[step.clamp(min=0), batch.node_token.clamp(min=0)]
    read = torch.where(step[batch.doc_path.clamp(min=0)] >= 0, batch.doc_path, -1)
    return doc_scores(replace(batch, doc_path=read), logprobs, reduction)


def free_greedy_path_logprobs(batch: PackedBatch, step_logprobs: Tensor) -> Tensor:
    """[M] for a node at depth t, the log-probability (nats) of its token at step t of the query's rollout; 0 at roots.

    step_logprobs [B, T, V], with T at least the depth of the deepest node.
    """
    step = (batch.node_depth - 1).clamp(min=0)
    picked = step_logprobs[batch.node_row, step, batch.node_token.clamp(min=0)]
    return torch.where(batch.node_token >= 0, picked, 0.0)


def valid_mass(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[B] the probability that the model writes one of the query's docIDs (negatives not among them)."""
    probs = torch.where(batch.doc_negative, 0.0, doc_scores(batch, node_logprobs, "sum").exp())
    return probs.new_zeros(len(batch.query_ids)).index_add(0, batch.doc_query, probs)


def valid_mass_by_step(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[B, L] the probability that the model, at each counted token of the top docID, writes one that is valid there.

    Valid is what a docID of the query (negatives not among them) has after the same prefix. NaN after the docID's end.
    Where several docIDs share the best rank, the mean over those that are as long. The batch holds the whole trie.
    """
    tops = top_docs(batch)
    path, query = batch.doc_path[tops], batch.doc_query[tops]
    mass = valid_logmass(batch, node_logprobs).exp()[path.clamp(min=0)]
    empty = mass.new_zeros(len(batch.query_ids), path.shape[1])
    counts = empty.index_add(0, query, (path >= 0).to(mass.dtype))
    return empty.index_add(0, query, torch.where(path >= 0, mass, 0.0)) / counts
