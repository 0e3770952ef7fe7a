"""Random numbers that belong to a row, not to a process or a batch, and the tokens that they draw.

Dimension letters: B queries, K distributions, L tokens of a query's longest docID, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stoical.decoding.choices import Per
from stoical.encoding.packing import PackedBatch
from stoical.models.checks import check_model
from stoical.models.prompt_cache import PromptCache


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


def free_outputs(
    model: nn.Module, batch: PackedBatch, eos: int, max_new_tokens: int, temperature: float, seeds: Sequence[str]
) -> list[list[int]]:
    """The token ids that the model writes after each of B prompts, EOS included; without it where the limit cut them.

    temperature 0: the likeliest token at every step; else samples of softmax(logits / temperature), by each query's own
    seed, so that an output does not depend on the others of the batch. The model runs in eval mode. Raises `ValueError`
    for a model that cannot run as long as that.
    """
    check_model(model, batch.prompt_width + max_new_tokens)
    generators = [random.Random(seed) for seed in seeds]
    uniform = torch.tensor([[own.random() for _ in range(max_new_tokens)] for own in generators], dtype=torch.float64)
    ended = torch.zeros(len(seeds), dtype=torch.bool)

    def choose(step: int, logits: Tensor) -> Tensor | None:
        if ended.all():
            return None
        tokens = drawn_tokens(logits, uniform[:, step], temperature)
        ended.logical_or_(tokens == eos)
        return tokens

    training = model.training
    model.eval()
    rows: list[list[int]] = write_freely(model, batch, max_new_tokens, choose).tolist()
    model.train(training)
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


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
