"""The paper's cheap proxy to beam search (section 5.1): one greedy rollout a query, whose steps score every docID.

Dimension letters: B queries, T steps, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoical.forward import PromptCache
from stoical.packing import PackedBatch


@torch.no_grad()
def greedy_rollouts(model: nn.Module, batch: PackedBatch, steps: int) -> Tensor:
    """[B, T, V] float32 log-probabilities (nats) of a query's next token, before each of `steps` greedy tokens.

    Unconstrained, over the whole vocabulary, and as many steps as were asked for: "for max steps", says section 5.1,
    so EOS is a token like any other and ends nothing. Nothing is read from the model's `generation_config`. The prompts
    run once, then one token a step over their keys and values. Of equal logits, the smaller token id.
    """
    cache = PromptCache(model, batch.input_ids[:, : batch.prompt_width], batch.prompt_lengths)
    logits = cache.logits
    found = [logits.float().log_softmax(dim=-1)]
    for _ in range(steps - 1):
        token = logits.argmax(dim=-1, keepdim=True)
        logits = cache.feed(token, torch.zeros_like(token))[:, 0]
        found.append(logits.float().log_softmax(dim=-1))
    return torch.stack(found, dim=1)
