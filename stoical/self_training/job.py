"""What one generation of rows is about: the rows picked, and what they all share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from stoical.config.recipe import Recipe
from stoical.data.rows import RankingRow
from stoical.decoding.choices import Per
from stoical.decoding.draws import Draws, row_draws
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import QueryEncoder
from stoical.encoding.tokenized import TokenizedQuery

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pick:
    """A row to generate from: its place among the generated ones and in the split, and the shuffle of its documents."""

    place: int
    index: int
    epoch: int
    row: RankingRow
    query: TokenizedQuery

    @property
    def origin(self) -> Record:
        """The part of every record that names where it comes from."""
        return {"place": self.place, "row": self.index, "query_id": self.row.query_id, "epoch": self.epoch}

    @property
    def longest(self) -> int:
        """Tokens of its longest docID."""
        return max(map(len, self.query.docid_ids))


@dataclass(frozen=True, slots=True)
class Job:
    """What all rows share. recipe: that of the training to come, which starts from `model`, now in eval mode."""

    recipe: Recipe
    iteration: int
    encoder: QueryEncoder
    collator: TrieTargetCollator
    model: nn.Module

    def batch(self, queries: list[TokenizedQuery]) -> PackedBatch:
        """The queries' prompts and whole tries, on the model's device."""
        return self.collator(queries)["batch"].to(next(self.model.parameters()).device)

    def draws(self, pick: Pick, length: int, beta: float = 1.0, per: Per = "token", stream: int = 0) -> Draws:
        """A row's random numbers for `length` tokens; another `stream` has others."""
        return row_draws([self.recipe.seed, self.iteration, pick.place, stream], length, beta, per)
