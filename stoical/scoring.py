"""docID scores out of node log-probabilities (section 5.1).

Dimension letters: M trie nodes, D docIDs, L tokens of the longest docID, B queries.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stoical.packing import PackedBatch

Reduction = Literal["mean", "sum"]


def doc_scores(batch: PackedBatch, node_logprobs: Tensor, reduction: Reduction = "mean") -> Tensor:
    """[D] each docID's log-probability in nats, the mean over its counted tokens (section 5.1) or the sum (Eq. 1)."""
    on_path = batch.doc_path >= 0
    sums = torch.where(on_path, node_logprobs[batch.doc_path.clamp(min=0)], 0.0).sum(dim=1)
    return sums / on_path.sum(dim=1) if reduction == "mean" else sums


def valid_mass(batch: PackedBatch, node_logprobs: Tensor) -> Tensor:
    """[B] the probability that the model writes one of the query's docIDs (negatives not among them)."""
    probs = torch.where(batch.doc_negative, 0.0, doc_scores(batch, node_logprobs, "sum").exp())
    return probs.new_zeros(len(batch.query_ids)).index_add(0, batch.doc_query, probs)
