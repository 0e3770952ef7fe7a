"""Greedy decoding without a trie: the paper's cheap proxy to beam search (section 5.1), and the text that is written.

Dimension letters: B queries, T steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    return torch.stack([logits.float().log_softmax(dim=-1) for logits in _logits(model, batch, steps)], dim=1)


@torch.no_grad()
def greedy_tokens(model: nn.Module, batch: PackedBatch, steps: int, end: int) -> list[list[int]]:
    """The tokens that the same decoding writes for each query, up to the token `end` and with it: at most `steps`.

    It stops where every query of the batch has ended, so that it keeps T tokens and no distributions.
    """
    tokens: list[Tensor] = []
    ended = torch.zeros(len(batch.query_ids), dtype=torch.bool, device=batch.input_ids.device)
    for logits in _logits(model, batch, steps):
        tokens.append(logits.argmax(dim=-1))
        ended |= tokens[-1] == end
        if ended.all():
            break
    rows: list[list[int]] = torch.stack(tokens, dim=1).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def _logits(model: nn.Module, batch: PackedBatch, steps: int) -> Iterator[Tensor]:
    """[B, V] the logits after the prompt, and after each greedy token."""
    cache = PromptCache(model, batch.input_ids[:, : batch.prompt_width], batch.prompt_lengths)
    logits = cache.logits
    yield logits
    for _ in range(steps - 1):
        token = logits.argmax(dim=-1, keepdim=True)
        logits = cache.feed(token, torch.zeros_like(token))[:, 0]
        yield logits
