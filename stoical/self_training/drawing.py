"""Random numbers that belong to a row, not to a process or a batch, and the tokens that they draw.

Dimension letters: B queries, K distributions, L tokens of a query's longest docID, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stoical.forward import PromptCache
from stoical.packing import PackedBatch
from stoical.self_training.settings import Per


@dataclass(frozen=True, slots=True)
class Draws:
    """One row's luck: own [L] bool, is the token at the position the model's own; uniform [L], which one it then is."""

    own: npt.NDArray[np.bool_]
    uniform: npt.NDArray[np.float64]


def row_draws(seeds: Sequence[int], length: int, beta: float = 1.0, per: Per = "token") -> Draws:
    """The draws of a row that `seeds` name, the same however rows are spread over batches and processes."""
    numbers = np.random.default_rng(seeds).random((length, 2))
    chosen = numbers[:, 0] < beta
    if per == "sequence":
        chosen = np.repeat(chosen[:1], length)
    return Draws(own=chosen, uniform=numbers[:, 1])


def drawn_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """[K] the tokens that uniform [K] numbers draw from softmax(logits [K, V] / temperature), in float64 on the CPU.

    The inverse of the cumulative distribution in the order of token ids; at temperature 0 the likeliest token.
    """
    if temperature == 0:
        return logits.argmax(dim=-1).cpu()
    cumulative = (logits.cpu().double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    wanted = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


@torch.no_grad()
def write_freely(
    model: nn.Module, batch: PackedBatch, steps: int, choose: Callable[[int, Tensor], Tensor | None]
) -> Tensor:
    """[B, steps or fewer] int64 on the CPU: tokens written one by one after the prompts, which run once.

    choose(step, logits [B, V]) gives the next token of every query, or None to end.
    """
    cache = PromptCache(model, batch.input_ids[:, : batch.prompt_width], batch.prompt_lengths)
    logits, written = cache.logits, []
    for step in range(steps):
        tokens = choose(step, logits.float())
        if tokens is None:
            break
        written.append(tokens)
        if step + 1 < steps:
            fed = tokens[:, None].to(logits.device)
            logits = cache.feed(fed, torch.zeros_like(fed))[:, 0]
    return torch.stack(written, dim=1)
