"""The paper's cheap proxy to beam search (section 5.1): one greedy rollout a query, whose steps score every docID.

Dimension letters: B queries, T steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stoical.forward import PromptCache
from stoical.packing import PackedBatch


@torch.no_grad()
def greedy_rollout(model: nn.Module, prompt_ids: Sequence[int], steps: int) -> Tensor:
    """[T, V] float32 log-probabilities (nats) of the next token, before each of `steps` greedy tokens.

    Unconstrained, over the whole vocabulary, and as many steps as were asked for: "for max steps", says section 5.1,
    so EOS is a token like any other and ends nothing. Nothing is read from the model's `generation_config`. The prompt
    runs once, then one token a step over its keys and values. Of equal logits, the smaller token id.
    """
    cache = PromptCache(model, prompt_ids)
    logits = cache.logits
    found = [logits.float().log_softmax(dim=-1)]
    for _ in range(steps - 1):
        token = logits.argmax(dim=-1)
        logits = cache.feed(token, torch.zeros_like(token))
        found.append(logits.float().log_softmax(dim=-1))
    return torch.cat(found)


def greedy_rollouts(model: nn.Module, batch: PackedBatch, steps: int) -> Tensor:
    """[B, T, V] the rollout of every query of the batch, one query at a time: no padding, whatever the batch."""
    prompts = [ids[:length].tolist() for ids, length in zip(batch.input_ids, batch.prompt_lengths, strict=True)]
    return torch.stack([greedy_rollout(model, prompt, steps) for prompt in prompts])
