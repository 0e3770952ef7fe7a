"""What free-running decoding makes of a query's docIDs, read off one exact forward over their trie: no decoding is run.

Dimension letters: M trie nodes, D docIDs, B queries, N things in groups.

Negatives are docIDs like the others here: decoding does not know them. Terminators are written too, counted or not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoical.decoding.choices import Reduction
from stoical.decoding.scores import doc_scores
from stoical.decoding.walks import counted, path_sums
from stoical.encoding.packing import PackedBatch
from stoical.models.forward import NodeOutput


def beam_scores(batch: PackedBatch, node_logprobs: Tensor, num_beams: int, reduction: Reduction = "mean") -> Tensor:
    """[D] the scores (nats) of the docIDs that `decoding.beam_search` finds within each query's trie; -inf for others.

    The same pruning and ties, as a walk over `node_logprobs` [M] of the whole trie, for all queries at once.
    """
    total, inner = path_sums(batch, node_logprobs), _is_parent(batch)
    live = batch.node_token < 0
    place = torch.zeros_like(batch.node_parent)
    for depth in range(1, int(batch.node_depth.max()) + 1):
        level = ((batch.node_depth == depth) & live[batch.node_parent] & inner).nonzero()[:, 0]
        place[level] = _places(batch.node_row[level], total[level], place[batch.node_parent[level]])
        live[level] = place[level] < num_beams
    scores = doc_scores(batch, node_logprobs, reduction)
    scores = scores.masked_fill(~live[batch.node_parent[_ends(batch)]], -torch.inf)
    return scores.masked_fill(
        _places(batch.doc_query, scores, torch.zeros_like(batch.doc_query)) >= num_beams, -torch.inf
    )


def greedy_is_valid(batch: PackedBatch, output: NodeOutput) -> Tensor:
    """[B] does unconstrained greedy decoding write one of the query's docIDs? Else it leaves their trie on the way.

    The likeliest token of the whole vocabulary is known at every node of the trie, so the decode is known until then.
    """
    likeliest = output.logits.argmax(dim=-1)[output.row, output.slot]
    on_walk = path_sums(batch, (likeliest != batch.node_token).float()) == 0
    valid = torch.zeros(len(batch.query_ids), dtype=torch.bool, device=on_walk.device)
    valid[batch.doc_query[on_walk[_ends(batch)]]] = True
    return valid


def teacher_forced(batch: PackedBatch, output: NodeOutput) -> tuple[list[list[float]], list[list[bool]]]:
    """For each query, over its first docID's tokens: log p (nats), and is the token the likeliest of the vocabulary?"""
    likeliest = output.logits.argmax(dim=-1)[output.row, output.slot]
    first = torch.searchsorted(batch.doc_query, torch.arange(len(batch.query_ids), device=likeliest.device))
    paths = batch.doc_path[first]
    logprobs, hits = output.logprobs[paths].tolist(), (likeliest == batch.node_token)[paths].tolist()
    lengths = (paths >= 0).sum(dim=1).tolist()
    return (
        [values[:length] for values, length in zip(logprobs, lengths, strict=True)],
        [values[:length] for values, length in zip(hits, lengths, strict=True)],
    )


def _is_parent(batch: PackedBatch) -> Tensor:
    """[M] does any docID go on from the node?"""
    inner = torch.zeros_like(batch.node_token, dtype=torch.bool)
    inner[batch.node_parent[batch.node_token >= 0]] = True
    return inner


def _ends(batch: PackedBatch) -> Tensor:
    """[D] the node where each docID ends: its last one, which is a terminator that does not count where it has one."""
    last = batch.doc_path.gather(1, (batch.doc_path >= 0).sum(dim=1, keepdim=True) - 1)[:, 0]
    terminators = ((batch.node_token >= 0) & ~counted(batch)).nonzero()[:, 0]
    end = torch.arange(len(batch.node_token), device=last.device)
    end[batch.node_parent[terminators]] = terminators
    return end[last]


def _places(group: Tensor, values: Tensor, ties: Tensor) -> Tensor:
    """[N] the place, from 0, of each value in its group, greatest first; equals by least `ties`, then as they come."""
    order = ties.argsort(stable=True)
    order = order[values[order].argsort(descending=True, stable=True)]
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return places
