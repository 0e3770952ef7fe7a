"""A model whose logits are rows of a table, chosen by the tokens that a column sees, and its decodes by plain loops.

The loops add float32 numbers in the order that decoding does, so that ties are ties in both, and equal is to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, MistralConfig

from tests.support.decoding_reference import Case
from tests.support.reference import Prefix

PRIME, BASE = 1_000_003, 31_337
POWERS = torch.tensor([pow(BASE, place, PRIME) for place in range(64)])


class TableModel(nn.Module):
    """Its cache holds the tokens themselves: a mask or a cache that is wrong leads to another row of `table` [R, V]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=False)
        self.config = MistralConfig(
            vocab_size=table.shape[1], sliding_window=None, attn_implementation="trie_sdpa", num_hidden_layers=1
        )
        logprobs = table.float().log_softmax(dim=-1)
        self.logprobs, self.exact = logprobs.numpy(), table.double().log_softmax(dim=-1).numpy()

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: DynamicCache,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_to_keep: Tensor | None = None,
        **_: object,
    ) -> SimpleNamespace:
        own = input_ids[:, None, :, None].double()
        kept, _ = past_key_values.update(own, own, 0)
        tokens, width = kept[:, 0, :, 0].long(), input_ids.shape[1]
        causal = torch.ones(width, tokens.shape[1], dtype=torch.bool).tril(tokens.shape[1] - width)
        sees = causal.expand(len(tokens), -1, -1) if attention_mask is None else attention_mask[:, 0]
        place = sees.long().cumsum(dim=-1)
        if position_ids is not None:
            assert torch.equal(position_ids, place[..., -1] - 1), "a node stands after what it sees"
        codes = torch.where(sees, (tokens[:, None] + 1) * POWERS[place], 0).sum(dim=-1) % PRIME
        if logits_to_keep is not None:
            codes = codes.take_along_dim(logits_to_keep, dim=1)
        return SimpleNamespace(logits=self.table[codes % len(self.table)], hidden_states=None)

    def row(self, tokens: list[int]) -> int:
        """The row that a column takes whose tokens are the last ones that it sees."""
        return sum((token + 1) * int(POWERS[place]) for place, token in enumerate(tokens, 1)) % PRIME % len(self.table)


@cache
def table_model(kind: str, dtype: torch.dtype, seed: int, rows: int = 61, vocabulary: int = 11) -> TableModel:
    """flat: all tokens alike, so that all docIDs of one length tie; coarse: few values, so that many do; fine: few."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, vocabulary, generator=generator)
    values = {"flat": torch.zeros_like(table), "coarse": (2 * table).round() / 2, "fine": 3 * table}[kind]
    return TableModel(values.to(dtype)).eval()


class PlainSearch:
    """The search that `beam_search` documents, over dictionaries of prefixes: none of its code, no trie, no mask."""

    def __init__(self, model: TableModel, case: Case) -> None:
        self.case, self.places = case, {ids: doc for doc, ids in enumerate(case.docids)}
        self.children: dict[Prefix, list[int]] = defaultdict(list)
        for prefix in sorted({ids[: step + 1] for ids in case.docids for step in range(len(ids))}):
            self.children[prefix[:-1]].append(prefix[-1])
        self.total, self.precise = {(): np.float32(0)}, {(): 0.0}
        for prefix in sorted(self.children, key=len):
            row = model.row([*case.prompt, *prefix])
            for token in self.children[prefix]:
                self.total[*prefix, token] = self.total[prefix] + model.logprobs[row, token]
                self.precise[*prefix, token] = self.precise[prefix] + float(model.exact[row, token])

    def score(self, doc: int, totals: dict[Prefix, float]) -> float:
        ids, counted = self.case.docids[doc], self.case.counted[doc]
        total = totals[ids[:counted]]
        return float(total / type(total)(counted) if self.case.reduction == "mean" else total)

    def ranked(self, docs: list[int]) -> list[tuple[int, float]]:
        """(doc, score), best first; of equal scores the docID listed first."""
        return sorted(((doc, self.score(doc, self.total)) for doc in docs), key=lambda pair: (-pair[1], pair[0]))

    def beams(self, num_beams: int) -> list[tuple[int, float]]:
        kept, found = [()], []
        while kept:
            children = [(*prefix, token) for prefix in kept for token in self.children[prefix]]
            found += [self.places[prefix] for prefix in children if prefix in self.places]
            kept = sorted((prefix for prefix in children if self.children.get(prefix)), key=lambda p: -self.total[p])
            kept = kept[:num_beams]
        return self.ranked(found)[:num_beams]

    def greedy(self) -> tuple[int, float]:
        walk, found = (), []
        while tokens := self.children.get(walk):
            walk = max(((*walk, token) for token in tokens), key=lambda prefix: self.total[prefix])
            found += [self.places[walk]] if walk in self.places else []
        return self.ranked(found)[0]
