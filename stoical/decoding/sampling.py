"""Text that the model writes freely, over its whole vocabulary: greedy or drawn, up to an end token.

Dimension letters: B queries, L tokens at most, T steps, V vocabulary.

The prompts run once, then one token a step over their keys and values. Nothing is read from the model's
`generation_config`. A query's tokens do not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from stoical.decoding.draws import drawn_tokens, uniform_draws
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.checks import check_model
from stoical.models.modes import eval_mode
from stoical.models.prompt_cache import PromptCache

Choose = Callable[[int, Tensor], Tensor]  # (step from 0, logits [B, V] float32) to the next tokens [B] int64


def likeliest(step: int, logits: Tensor) -> Tensor:
    """[B] the likeliest token of each query; of equal logits, the smaller token id."""
    return logits.argmax(dim=-1)


def drawn(uniform: Tensor, temperature: float) -> Choose:
    """Tokens drawn by `uniform` [B, L] numbers, a column a step (see `draws.drawn_tokens`)."""
    return lambda step, logits: drawn_tokens(logits, uniform[:, step], temperature)


def _write(model: nn.Module, batch: PackedBatch, steps: int, choose: Choose) -> Iterator[tuple[Tensor, Tensor]]:
    """The loop: step by step the logits [B, V], float32, and the tokens [B] that `choose` takes, which are fed.

    Raises `ValueError` for a model that cannot run as long as that: what is written may be longer than any docID.
    """
    check_model(model, batch.prompt_width + steps)
    cache = PromptCache(model, batch.input_ids[:, : batch.prompt_width], batch.prompt_lengths)
    logits = cache.logits.float()
    for step in range(steps):
        tokens = choose(step, logits)
        yield logits, tokens
        if step + 1 < steps:
            fed = tokens[:, None].to(logits.device)
            logits = cache.feed(fed, torch.zeros_like(fed))[:, 0].float()


@torch.no_grad()
def write_freely(
    model: nn.Module, batch: PackedBatch, steps: int, choose: Choose, end: int | None = None
) -> list[list[int]]:
    """The tokens that each query writes after its prompt: `steps` of them, or up to the token `end` and with it.

    It stops where every query of the batch has ended. The model's mode is the caller's.
    """
    written: list[Tensor] = []
    ended = torch.zeros(len(batch.query_ids), dtype=torch.bool)
    for _, tokens in _write(model, batch, steps, choose):
        written.append(tokens)
        if end is not None:
            ended |= (tokens == end).cpu()
            if ended.all():
                break
    rows: list[list[int]] = torch.stack(written, dim=1).tolist()
    return rows if end is None else [up_to(row, end) for row in rows]


def up_to(tokens: list[int], end: int) -> list[int]:
    """The tokens up to the first `end` and with it; all where there is none."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def greedy_tokens(model: nn.Module, batch: PackedBatch, steps: int, end: int) -> list[list[int]]:
    """The likeliest tokens of each query, up to the token `end` and with it: at most `steps`."""
    return write_freely(model, batch, steps, likeliest, end)


def free_outputs(
    model: nn.Module, batch: PackedBatch, eos: int, max_new_tokens: int, temperature: float, seeds: Sequence[str]
) -> list[list[int]]:
    """The token ids that the model writes after each of B prompts, EOS included; without it where the limit cut them.

    temperature 0: the likeliest token at every step; else samples of softmax(logits / temperature), by each query's own
    seed. The model runs in eval mode. Raises `ValueError` for a model that cannot run as long as that.
    """
    with eval_mode(model):
        choose = drawn(uniform_draws(seeds, max_new_tokens), temperature)
        return write_freely(model, batch, max_new_tokens, choose, eos)


@torch.no_grad()
def greedy_rollouts(model: nn.Module, batch: PackedBatch, steps: int) -> Tensor:
    """[B, T, V] float32 log-probabilities (nats) of a query's next token, before each of `steps` greedy tokens.

    As many steps as asked for ("for max steps", section 5.1): EOS is a token like any other and ends nothing.
    """
    return torch.stack([logits.log_softmax(dim=-1) for logits, _ in _write(model, batch, steps, likeliest)], dim=1)
