"""What free-running decoding makes of a query's docIDs, read off one exact forward over their trie: no decoding is run.

Dimension letters: M trie nodes, D docIDs, B queries.

Negatives are docIDs like the others here: decoding does not know them. Terminators are written too, counted or not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoical.decoding.beams import beam_on_nodes, rank_in_group
from stoical.decoding.choices import Reduction
from stoical.decoding.scores import doc_scores
from stoical.decoding.walks import docid_ends, path_sums
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.forward import NodeOutput


def beam_scores(batch: PackedBatch, node_logprobs: Tensor, num_beams: int, reduction: Reduction = "mean") -> Tensor:
    """[D] the scores (nats) of the docIDs that `beam_search.beam_search` finds in each query's trie; -inf for others.

    Pruning is that search's; this is a walk over `node_logprobs` [M] of whole tries, for all queries at once. Ties go
    against the model, as in all metrics: of equals, what leads to less relevant docIDs is kept, so that a model whose
    scores are all the same finds the least relevant ones.
    """
    beams = beam_on_nodes(batch, path_sums(batch, node_logprobs), num_beams, first=batch.node_rank)
    found = beams[batch.node_parent[docid_ends(batch)]]
    scores = doc_scores(batch, node_logprobs, reduction).masked_fill(~found, -torch.inf)
    place = rank_in_group(batch.doc_query, scores, batch.doc_rank)
    return scores.masked_fill(place >= num_beams, -torch.inf)


def greedy_is_valid(batch: PackedBatch, output: NodeOutput) -> Tensor:
    """[B] True where unconstrained greedy decoding writes one of the query's docIDs; else it leaves their trie midway.

    The likeliest token of the whole vocabulary is known at every node of the trie, so the decode is known until then.
    """
    on_walk = path_sums(batch, (output.likeliest != batch.node_token).float()) == 0
    valid = torch.zeros(len(batch.query_ids), dtype=torch.bool, device=on_walk.device)
    valid[batch.doc_query[on_walk[docid_ends(batch)]]] = True
    return valid


def teacher_forced(batch: PackedBatch, output: NodeOutput, docs: Tensor) -> tuple[list[list[float]], list[list[bool]]]:
    """For each of `docs` [K], over the docID's tokens: log p (nats), and True where the token is the likeliest of all.

    `docs` are places among the batch's D docIDs.
    """
    paths = batch.doc_path[docs]
    logprobs, hits = output.logprobs[paths].tolist(), (output.likeliest == batch.node_token)[paths].tolist()
    lengths = (paths >= 0).sum(dim=1).tolist()
    return (
        [values[:length] for values, length in zip(logprobs, lengths, strict=True)],
        [values[:length] for values, length in zip(hits, lengths, strict=True)],
    )
