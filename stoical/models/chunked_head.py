"""Log-probabilities of trie nodes out of hidden states and the head's weight, with a few of the vocabulary's logits at
a time: the backward pass makes them again.

log p(node) is the node's own logit less the log-sum-exp of all logits after its prefix. So [K, V] logits, their softmax
and their gradient, which rule memory where V is large, need never be there at once.

Dimension letters: K read-out slots, H hidden size, V vocabulary, C tokens of a chunk, M trie nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedConfig

CHUNK = 2**24  # logits of a chunk, 64 MiB in float32: small, and products of that size run at full speed
LEAST = 128  # tokens of a chunk, however many slots there are: thinner products are slow


def in_chunks(slots: int, vocabulary: int) -> bool:
    """Whether so many logits are made a chunk at a time, and not all at once."""
    return slots * vocabulary > CHUNK


def chunk_tokens(slots: int) -> int:
    """How many of the vocabulary's tokens a chunk has."""
    return max(LEAST, CHUNK // slots)


@dataclass(frozen=True, slots=True)
class AfterHead:
    """What a model makes of its head's outputs z: cap tanh(scale z / cap), or scale z where there is no cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> AfterHead:
        """As the config says it: Gemma's cap, Cohere's factor, Granite's divisor."""
        config = config.get_text_config()
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, outputs: Tensor) -> Tensor:
        """The logits."""
        logits = outputs if self.scale == 1 else outputs * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def slope(self, logits: Tensor) -> Tensor | float:
        """D logits / d outputs, where the logits are these."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)


def chunked_logprobs(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    place: Tensor,
    token: Tensor,
    after: AfterHead,
    likeliest: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """[M] float32 log p(token [M]) of a node read at slot `place` [M] of `states` [K, H], 0 where the token is -1.

    And, if asked for, [K] the likeliest token at each slot; of equal ones, the smallest id.

    weight [V, H] and bias [V] are the head's. Logits have the precision of the head's product, under autocast its own;
    everything after is float32. Differentiable once, in states, weight and bias.
    """
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    arguments = (states, weight, bias, place, token, after, likeliest, dtype)
    found: tuple[Tensor, Tensor | None] = _ChunkedLogprobs.apply(*arguments)  # type: ignore[no-untyped-call]
    return found


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The head's product for tokens `start` to `end`; dtype: what it is computed in."""

    start: int
    end: int
    dtype: torch.dtype

    def product(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[K, C] in float32, or the dtype if that is wider."""
        bias = None if bias is None else bias[self.start : self.end].to(self.dtype)
        outputs = linear(states, self.weight(weight), bias)
        return outputs.to(torch.promote_types(self.dtype, torch.float32))

    def weight(self, weight: Tensor) -> Tensor:
        """[C, H]"""
        return weight[self.start : self.end].to(self.dtype)

    def column(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """[M] which tokens are in this chunk, and [M] their columns, 0 for the others."""
        inside = (token >= self.start) & (token < self.end)
        return inside, torch.where(inside, token - self.start, 0)


def _chunks(slots: int, vocabulary: int, dtype: torch.dtype) -> Iterator[_Chunk]:
    width = chunk_tokens(slots)
    for start in range(0, vocabulary, width):
        yield _Chunk(start, min(start + width, vocabulary), dtype)


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        place: Tensor,
        token: Tensor,
        after: AfterHead,
        likeliest: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(states.device.type, enabled=False):
            low = states.to(dtype)
            wide = torch.promote_types(dtype, torch.float32)
            picked = torch.zeros(len(place), dtype=wide, device=states.device)
            highest = torch.full((len(states),), torch.finfo(wide).min, dtype=wide, device=states.device)
            exponentials, best = torch.zeros_like(highest), torch.zeros_like(highest, dtype=torch.int64)
            for chunk in _chunks(len(states), len(weight), dtype):
                logits = after(chunk.product(low, weight, bias))
                inside, column = chunk.column(token)
                picked = torch.where(inside, logits[place, column], picked)
                if likeliest:
                    own, where = logits.max(dim=1)
                    best = torch.where(own > highest, where + chunk.start, best)
                before, highest = highest, torch.maximum(highest, own if likeliest else logits.amax(dim=1))
                exponentials = exponentials * (before - highest).exp()
                exponentials += logits.sub_(highest[:, None]).exp_().sum(dim=1)
            total = highest + exponentials.log()
        ctx.save_for_backward(states, weight, bias, place, token, total)
        ctx.after, ctx.dtype = after, dtype
        ctx.mark_non_differentiable(best)
        return torch.where(token >= 0, picked - total[place], 0.0), best if likeliest else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_logprobs: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, bias, place, token, total = ctx.saved_tensors
        wanted, dtype = ctx.needs_input_grad[:3], ctx.dtype
        of_logprobs = torch.where(token >= 0, of_logprobs, 0.0)
        at_slots = torch.zeros_like(total).index_put((place,), of_logprobs, accumulate=True)  # in order on CUDA, too
        to_states = torch.zeros(states.shape, dtype=total.dtype, device=states.device) if wanted[0] else None
        to_weight = torch.empty_like(weight) if wanted[1] else None
        to_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
        with torch.autocast(states.device.type, enabled=False):
            low = states.to(dtype)
            for chunk in _chunks(len(states), len(weight), dtype):
                logits = ctx.after(chunk.product(low, weight, bias))
                slope = ctx.after.slope(logits)
                inside, column = chunk.column(token)
                gradient = logits.sub_(total[:, None]).exp_().mul_(-at_slots[:, None])
                gradient.index_put_((place, column), torch.where(inside, of_logprobs, 0.0), accumulate=True)
                gradient = gradient.mul_(slope).to(dtype)
                if to_states is not None:
                    to_states += gradient @ chunk.weight(weight)
                if to_weight is not None:
                    to_weight[chunk.start : chunk.end] = gradient.T @ low
                if to_bias is not None:
                    to_bias[chunk.start : chunk.end] = gradient.sum(dim=0, dtype=total.dtype)
        return None if to_states is None else to_states.to(states.dtype), to_weight, to_bias, *[None] * 5
