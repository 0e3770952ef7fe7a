"""Rows of a ranking dataset as numbers for a lookup table: the items, and (query, document, lambda) pairs.

Dimension letters: P pairs of a split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stoical.common.arrays import Floats
from stoical.common.files import json_file
from stoical.common.progress import progress
from stoical.data.dataset import RankingDataset
from stoical.data.rows import RankingRow
from stoical.runs.checkpoints import ITEMS_FILE
from stoical.trie.node_weights import TargetSettings, item_weights

SHOWN = 3  # names in an error message


class Items:
    """The items of a table, in its order: a query and a document of the same name are the same item."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._place = {name: place for place, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, splits: Iterable[RankingDataset]) -> Items:
        """All queries, documents and negatives of the splits, sorted: those that no training pair holds too."""
        found: set[str] = set()
        for split in splits:
            for row in progress(split, f"listing the items of {split.name}"):
                found.update((row.query, *_documents(row)))
        return cls(sorted(found))

    @classmethod
    def load(cls, checkpoint: Path) -> Items:
        """The items of a checkpoint. Raises `ValueError` for a file that is not a list of names."""
        names = json_file(checkpoint / ITEMS_FILE)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{checkpoint / ITEMS_FILE} must hold a JSON list of strings")
        return cls(names)

    def save(self, directory: Path) -> None:
        """Write them beside the table."""
        (directory / ITEMS_FILE).write_text(json.dumps(self.names, ensure_ascii=False), encoding="utf-8")

    def places(self, names: Iterable[str]) -> Tensor:
        """[names] rows of the table."""
        return torch.tensor([self._place[name] for name in names])

    def check_known(self, split: RankingDataset, indices: Iterable[int]) -> None:
        """Raise `ValueError` where rows of a split name what the table has no row for."""
        rows = (split[index] for index in indices)
        missing = sorted({name for row in rows for name in (row.query, *_documents(row)) if name not in self._place})
        if missing:
            raise ValueError(
                f"{split.name}: the encoder's table has no row for {len(missing):,} of its items "
                f"({', '.join(missing[:SHOWN])}{', ...' * (len(missing) > SHOWN)}): it has those of the data that it "
                "was trained on; evaluate on these"
            )


def _documents(row: RankingRow) -> list[str]:
    return [doc.docid for doc in (*row.docs, *row.negatives)]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positive pairs of a split: items [P] of query and document, and `weight` [P], lambda(r) in float32."""

    query: Tensor
    doc: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.query)

    @classmethod
    def of(cls, split: RankingDataset, items: Items, loss: TargetSettings) -> Pairs:
        """Every (query, document) of a split with the item weight that `loss` gives its rank, times the data's own."""
        queries: list[str] = []
        docs: list[str] = []
        weights = []
        for row in progress(split, f"pairing {split.name}"):
            queries += [row.query] * len(row.docs)
            docs += [doc.docid for doc in row.docs]
            weights.append(item_weights(np.array(row.ranks), loss.item, loss.alpha or 0.0) * _counts(row))
        weight = torch.from_numpy(np.concatenate(weights)).float()
        return cls(items.places(queries), items.places(docs), weight)

    def batch(self, size: int, step: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of a step (from 0): of one shuffle an epoch, whose last pairs, fewer than `size`, are left out.

        Raises `ValueError` where there is not one batch.
        """
        a_epoch = len(self) // size
        if not a_epoch:
            raise ValueError(
                f"global_batch_size={size}: the training split has {len(self):,} pairs, fewer than one batch; lower it"
            )
        epoch, place = divmod(step, a_epoch)
        picked = shuffle(len(self), seed, epoch)[place * size : (place + 1) * size]
        return self.query[picked], self.doc[picked], self.weight[picked]


def _counts(row: RankingRow) -> Floats:
    """[D] how much each document counts by the data: its weight times its query's, 1 where there is none."""
    own = np.array([1.0 if doc.weight is None else doc.weight for doc in row.docs])
    return own if row.weight is None else row.weight * own


@lru_cache(maxsize=2)
def shuffle(count: int, *numbers: int) -> Tensor:
    """A random order of `count` places that follows from the numbers alone: a run keeps no state for it."""
    return torch.from_numpy(np.random.default_rng([abs(number) for number in numbers]).permutation(count))
