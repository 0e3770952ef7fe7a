"""A model's output that no model made."""

from __future__ import annotations

import torch

from stoical.models.forward import NodeOutput
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
