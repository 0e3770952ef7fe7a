"""BASH's rows: from a query to a record of its mixed tokens, and from the record to what is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stoical.config.self_training import BashSettings
from stoical.decoding.draws import Draws, drawn_tokens
from stoical.decoding.sampling import write_freely
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.forward import node_logprobs
from stoical.models.layouts import Layout
from stoical.self_training.job import Job, Pick, Record
from stoical.self_training.trie_walks import Written, write_on_tries
from stoical.trie.expert import ExpertTrie, path_of
from stoical.trie.mixed_prefix import PrefixTarget


def bash_records(job: Job, settings: BashSettings, picks: Sequence[Pick]) -> list[Record]:
    """One record a pick: the tokens that it is to be trained on."""
    draws = [job.draws(pick, pick.longest, settings.beta, settings.per) for pick in picks]
    queries = [pick.query for pick in picks]
    tries = [ExpertTrie.of(query.docid_ids, query.ranks) for query in queries]
    mixed = mix(job.model, job.batch(queries), tries, draws, settings, job.recipe.layout)
    return [pick.origin | dataclasses.asdict(one) for pick, one in zip(picks, mixed, strict=True)]


def bash_counts(records: Sequence[Record]) -> dict[str, float]:
    """Rows and tokens, and shares: of tokens that are the model's own and that differ, of rows that differ or leave."""
    tokens = sum(len(record["tokens"]) for record in records)
    return {
        "rows": len(records),
        "tokens": tokens,
        "own_tokens": sum(sum(record["own"]) for record in records) / tokens,
        "changed_tokens": sum(sum(record["changed"]) for record in records) / tokens,
        "changed_rows": sum(any(record["changed"]) for record in records) / len(records),
        "off_trie_rows": sum(record["off_trie"] for record in records) / len(records),
    }


@dataclass(frozen=True, slots=True)
class MixedTokens:
    """What one query is to be fed.

    tokens; own: which of them are the model's; changed: which the expert would not have written there; off_trie: True
    where the trie has no target for what comes after some of them.
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
            node_logprobs(model, batch, layout, keep="logits"),
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
    """The gold tokens, and the model's, given the tokens before, where `draws` choose it; one forward a token."""
    gold = [trie.gold_tokens for trie in tries]
    steps = max(map(len, gold)) - 1
    forced = torch.tensor([[*tokens, *[0] * steps][:steps] for tokens in gold])
    own = torch.from_numpy(np.stack([_widened(luck.own, steps) for luck in draws])).bool()
    uniform = torch.from_numpy(np.stack([_widened(luck.uniform, steps) for luck in draws]))

    def choose(step: int, logits: Tensor) -> Tensor:
        drawn = drawn_tokens(logits, uniform[:, step], temperature)
        return torch.where(own[:, step], drawn, forced[:, step])

    rows = write_freely(model, batch, steps, choose)
    return [Written(row[: len(tokens) - 1], tokens) for row, tokens in zip(rows, gold, strict=True)]


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    wide = np.zeros(width, dtype=values.dtype)
    wide[: len(values)] = values[:width]
    return wide


def _mixed(written: Written, trie: ExpertTrie, draws: Draws, target: PrefixTarget) -> MixedTokens:
    tokens = written.tokens
    if target == "gold_position":  # the last token is never fed
        tokens = tokens[: len(trie.gold) - 1]
    path = path_of(trie.trie, tokens)
    ended = target == "recompute" and trie.steps[path[-1]] < 0
    return MixedTokens(
        tokens=tokens,
        own=draws.own[: len(tokens)].tolist(),
        changed=[token != expert for token, expert in zip(tokens, written.expert, strict=False)],
        off_trie=len(path) <= len(tokens) and not ended,
    )
