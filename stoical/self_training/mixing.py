"""BASH, batch-scheduled sampling (arXiv 2410.14655): gold docIDs with tokens of the model's own, made offline.

Dimension letters: B queries, V vocabulary.

The paper's g_t is y_t with probability 1 - beta and else the model's token, and the loss is -sum log p(y_t | x, g_<t):
here `target=gold_position` with `source=free`. Our copy of it does not say whether the model's token is drawn after the
gold prefix or the mixed one, nor at which temperature: both are settings. A trie knows the target of the prefix that
was made (`recompute`); what is then not the model's token is the expert's step from there: DAgger, offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stoical.forward import Layout, node_logprobs
from stoical.mixed_prefix import PrefixTarget, spelled
from stoical.packing import PackedBatch
from stoical.self_training.drawing import Draws, drawn_tokens, write_freely
from stoical.self_training.settings import BashSettings
from stoical.self_training.trie_walks import ExpertTrie, Written, write_on_tries


@dataclass(frozen=True, slots=True)
class MixedTokens:
    """What one query is to be fed: tokens; own: which of them are the model's; changed: which the expert would not
    have written there; off_trie: does the trie not know a target for what comes after some of them?
    """

    tokens: list[int]
    own: list[bool]
    changed: list[bool]
    off_trie: bool


@torch.no_grad()
def mix(
    model: nn.Module,
    batch: PackedBatch,
    tries: Sequence[ExpertTrie],
    draws: Sequence[Draws],
    settings: BashSettings,
    layout: Layout,
) -> list[MixedTokens]:
    """Every query's mixed tokens. `batch` holds the whole tries; the model is in eval mode."""
    to_the_letter = settings.target == "gold_position"
    if to_the_letter and settings.sampler == "sequential":
        written = _one_by_one(model, batch, tries, draws, settings.temperature)
    else:
        written = write_on_tries(
            batch,
            node_logprobs(model, batch, layout),
            tries,
            draws,
            source=settings.source,
            temperature=settings.temperature,
            along_gold=settings.sampler == "parallel",
        )
    return [_mixed(one, trie, luck, settings.target) for one, trie, luck in zip(written, tries, draws, strict=True)]


def _one_by_one(
    model: nn.Module, batch: PackedBatch, tries: Sequence[ExpertTrie], draws: Sequence[Draws], temperature: float
) -> list[Written]:
    """The gold tokens, and after the tokens before them the model's where `draws` say so; one forward a token."""
    gold = [trie.gold_tokens for trie in tries]
    steps = max(map(len, gold)) - 1
    forced = torch.tensor([[*tokens, *[0] * steps][:steps] for tokens in gold])
    own = torch.from_numpy(np.stack([_widened(luck.own, steps) for luck in draws])).bool()
    uniform = torch.from_numpy(np.stack([_widened(luck.uniform, steps) for luck in draws]))

    def choose(step: int, logits: Tensor) -> Tensor:
        drawn = drawn_tokens(logits, uniform[:, step], temperature)
        return torch.where(own[:, step], drawn, forced[:, step])

    rows = write_freely(model, batch, steps, choose).tolist()
    return [Written(row[: len(tokens) - 1], tokens) for row, tokens in zip(rows, gold, strict=True)]


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    wide = np.zeros(width, dtype=values.dtype)
    wide[: len(values)] = values[:width]
    return wide


def _mixed(written: Written, trie: ExpertTrie, draws: Draws, target: PrefixTarget) -> MixedTokens:
    tokens = written.tokens
    if target == "gold_position":  # the last token is never fed
        tokens = tokens[: len(trie.gold) - 1]
    path = spelled(trie.trie, tokens)
    ended = target == "recompute" and trie.steps[path[-1]] < 0
    return MixedTokens(
        tokens=tokens,
        own=draws.own[: len(tokens)].tolist(),
        changed=[token != expert for token, expert in zip(tokens, written.expert, strict=False)],
        off_trie=len(path) <= len(tokens) and not ended,
    )
