"""Tokens that the model and the expert write down the tries of a batch, from one forward pass over all of their nodes.

Dimension letters: K queries that still write, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from stoical.common.arrays import Ints
from stoical.decoding.choices import Source
from stoical.decoding.draws import Draws, drawn_tokens
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.forward import NodeOutput
from stoical.trie.expert import ExpertTrie, child


@dataclass(frozen=True, slots=True)
class Written:
    """tokens: what one query's walk wrote; expert: what the expert would have, from where the walk then was."""

    tokens: list[int]
    expert: list[int]


def write_on_tries(
    batch: PackedBatch,
    output: NodeOutput,
    tries: Sequence[ExpertTrie],
    draws: Sequence[Draws],
    *,
    source: Source,
    temperature: float,
    along_gold: bool,
) -> list[Written]:
    """Every query's tokens, its own where `draws` choose so and else the expert's, until a leaf or off the trie.

    `batch` holds whole tries, `output` their forward pass. A token is drawn after the tokens before it, or with
    `along_gold` after those of the gold path, in whose places they are to stand.
    """
    first = torch.searchsorted(batch.node_row, torch.arange(len(tries), device=batch.node_row.device)).tolist()
    places, written = [0] * len(tries), [Written([], []) for _ in tries]
    for step in count():
        live = [query for query, place in enumerate(places) if place >= 0 and tries[query].steps[place] >= 0]
        if not live:
            break
        below = [first[query] + int(tries[query].trie.child_start[places[query]]) for query in live]
        logits = output.logits_at(below).float().cpu()
        if source == "constrained":
            logits = _among(logits, [tries[query].children(places[query]) for query in live])
        uniform = torch.tensor([draws[query].uniform[step] for query in live])
        for query, own in zip(live, drawn_tokens(logits, uniform, temperature).tolist(), strict=True):
            one, expert = tries[query], int(tries[query].steps[places[query]])
            token = own if draws[query].own[step] else int(one.trie.token[expert])
            written[query].tokens.append(token)
            written[query].expert.append(int(one.trie.token[expert]))
            places[query] = expert if along_gold else child(one.trie, places[query], token)
    return written


def _among(logits: Tensor, tokens: Sequence[Ints]) -> Tensor:
    """[K, V] `logits`, -inf but at each row's own tokens."""
    kept = torch.full_like(logits, -torch.inf)
    for row, own in enumerate(tokens):
        kept[row, own] = logits[row, own]
    return kept
