"""A model's output that no model made."""

from __future__ import annotations

import numpy as np
import torch

from stoical.models.forward import NodeOutput
from tests.support.packed import pack, prefix_of
from tests.support.tiny_model import VOCAB


def made_up_logprobs(batch, seed=0):
    """Float64 log-probabilities whose siblings sum to less than 1, as a model's over a whole vocabulary do."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(batch.node_token), generator=generator, dtype=torch.float64)
    total = torch.zeros_like(logits).index_add(0, batch.node_parent, logits.exp())[batch.node_parent]
    return torch.where(batch.node_token >= 0, logits - (total + 3.0).log(), 0.0)


def made_up_output(batch, seed=0):
    """Float64 logits at every inner node, and the node log-probabilities that they give, differentiable."""
    parents = batch.node_parent.unique()
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, len(parents), VOCAB, generator=generator, dtype=torch.float64).requires_grad_()
    slot = torch.searchsorted(parents, batch.node_parent)
    logprobs = logits.log_softmax(-1)[0, slot, batch.node_token.clamp(min=0)]
    logprobs = torch.where(batch.node_token >= 0, logprobs, 0.0)
    return NodeOutput(logprobs, logits, torch.zeros_like(slot), slot)


def logprobs_by_prefix(queries, salt=0):
    """Float64 log-probabilities of the packed queries' nodes that depend on the query's number and the prefix alone."""
    batch, numbers = pack(queries), []
    for node, row in enumerate(batch.node_row.tolist()):
        key = (salt, int(queries[row].query_id[1:]), *prefix_of(batch, node))
        numbers.append(-3 * np.random.default_rng(key).random() if batch.node_token[node] >= 0 else 0.0)
    return torch.tensor(numbers, dtype=torch.float64)
