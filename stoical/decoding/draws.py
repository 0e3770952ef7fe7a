"""Random numbers that belong to a row, not to a process or a batch, and the tokens that they draw.

Dimension letters: B rows, K distributions, L tokens, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stoical.common.arrays import Bools, Floats
from stoical.common.lazy import torch
from stoical.decoding.choices import Per

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one row.

    own [L] is True where the token at that position is the model's own; uniform [L], from 0 up to 1, draws it.
    """

    own: Bools
    uniform: Floats


def row_draws(seeds: Sequence[int], length: int, beta: float = 1.0, per: Per = "token") -> Draws:
    """The draws of the row that `seeds` name, the same however rows are spread over batches and processes."""
    numbers = np.random.default_rng(seeds).random((length, 2))
    chosen = numbers[:, 0] < beta
    if per == "sequence":
        chosen = np.repeat(chosen[:1], length)
    return Draws(own=chosen, uniform=numbers[:, 1])


def uniform_draws(seeds: Sequence[str], length: int) -> Tensor:
    """[B, L] float64 uniform numbers from 0 up to 1, each row's from its own seed."""
    generators = [random.Random(seed) for seed in seeds]
    return torch.tensor([[own.random() for _ in range(length)] for own in generators], dtype=torch.float64)


def drawn_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """[K] the tokens that uniform [K] numbers draw from softmax(logits [K, V] / temperature), in float64 on the CPU.

    The inverse of the cumulative distribution in the order of token ids; at temperature 0 the likeliest token.
    """
    if temperature == 0:
        return logits.argmax(dim=-1).cpu()
    cumulative = (logits.cpu().double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    wanted = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
