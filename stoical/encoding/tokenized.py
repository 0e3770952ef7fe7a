"""One query as token ids, between the dataset's row and the packed batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stoical.trie.mixed_prefix import MixedPrefix

Terminator = Literal["eos", "none"]


@dataclass(frozen=True, slots=True)
class TokenizedQuery:
    """One query, ready to pack: prompt ids (one BOS, no docID), docIDs and their ids (terminator included), ranks.

    The last `num_negatives` docIDs are negatives: scored, but no part of the loss (an objective may compare with them).
    `counted` says for each docID how many of its tokens the loss and the score count (all, or all but the terminator);
    `num_dropped` documents did not fit. `grades`: the user's own, None where nobody judged. weight: how much the query
    counts in training; doc_weights: each document's that is not a negative (empty: all 1). teacher_scores: of the
    docIDs, another model's, NaN where there is none (empty: of none).
    With `mixed`, the loss is that of another prefix than the top docID's. A `filler` counts nothing.
    """

    query_id: str
    prompt_ids: Sequence[int]
    docids: Sequence[str]
    docid_ids: Sequence[Sequence[int]]
    counted: Sequence[int]
    ranks: Sequence[int]
    num_negatives: int = 0
    num_dropped: int = 0
    grades: Sequence[float | None] = ()
    weight: float = 1.0
    doc_weights: Sequence[float] = ()
    teacher_scores: Sequence[float] = ()
    mixed: MixedPrefix | None = None
    filler: bool = False

    @property
    def num_listed(self) -> int:
        """How many of the docIDs, the first ones, are not negatives."""
        return len(self.docids) - self.num_negatives

    @property
    def num_tops(self) -> int:
        """How many of the docIDs, the first ones, share the first one's rank."""
        return list(self.ranks[: self.num_listed]).count(self.ranks[0])
