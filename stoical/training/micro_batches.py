"""A step's queries in micro-batches of so many tokens (`max_tokens_per_micro_batch`), not of so many queries.

The loader hands out a process's whole share of a step, sorted by length and cut where the next query would make the
micro-batch too large. The gradient is that of any other cut: the loss is a sum over the global batch, divided once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import PackedQuery, TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """The micro-batches of a process's share of a step, those of the longest queries first."""

    parts: tuple[PackedBatch, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same with every tensor on `device`."""
        return replace(self, parts=tuple(part.to(device, non_blocking) for part in self.parts))

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        return replace(self, parts=tuple(part.pin_memory() for part in self.parts))

    def filled_up(self, count: int) -> tuple[PackedBatch, ...]:
        """`count` micro-batches: after these, the smallest once more and once more, as fillers that count nothing."""
        filler = replace(self.parts[-1], filler=True)
        return (*self.parts, *[filler] * (count - len(self.parts)))


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Collates queries to `MicroBatches` of at most `max_tokens` tokens and `max_queries` queries each.

    Tokens: of the rectangle that a micro-batch is padded to, prompts and trie nodes, so that whatever the model makes
    of it is bounded. A query that has more by itself is a micro-batch of its own.
    """

    collator: TrieTargetCollator
    max_tokens: int
    max_queries: int

    def __call__(self, queries: Sequence[TokenizedQuery]) -> dict[str, Any]:
        """Raises `ValueError` as the collator does."""
        packed = sorted(map(self.collator.pack, queries), key=lambda query: -sum(query.size))
        return {"batch": MicroBatches(tuple(map(self.collator.assemble, self._cut(packed))))}

    def _cut(self, packed: Sequence[PackedQuery]) -> Iterator[list[PackedQuery]]:
        part: list[PackedQuery] = []
        for query in packed:
            if part and (len(part) == self.max_queries or rectangle([*part, query]) > self.max_tokens):
                yield part
                part = []
            part.append(query)
        yield part


def rectangle(packed: Sequence[PackedQuery]) -> int:
    """Tokens of the rectangle that these queries are padded to: prompt columns and node columns."""
    prompts, nodes = zip(*(query.size for query in packed), strict=True)
    return len(packed) * (max(prompts) + max(nodes))


def parts_of(batch: PackedBatch | MicroBatches) -> tuple[PackedBatch, ...]:
    """The packed batches that a loader's batch consists of."""
    return batch.parts if isinstance(batch, MicroBatches) else (batch,)
