"""How many tokens a dataset's prompts and docIDs have, what truncation drops, and which docIDs are one to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from stoical.data.validation import spread
from stoical.encoding.tokenized import TokenizedQuery


@dataclass
class TokenCounts:
    """Lengths in tokens of the queries of one split, and what truncation dropped of them."""

    prompts: Counter[int] = field(default_factory=Counter)
    docids: Counter[int] = field(default_factory=Counter)
    truncated: int = 0
    dropped: int = 0

    def add(self, query: TokenizedQuery) -> None:
        """Count a query."""
        self.prompts[len(query.prompt_ids)] += 1
        self.docids.update(len(ids) for ids in query.docid_ids)
        self.truncated += query.num_dropped > 0
        self.dropped += query.num_dropped

    def lines(self, max_length: int) -> Iterator[str]:
        """What to print."""
        yield f"prompt tokens: {spread(self.prompts)}"
        yield f"docID tokens, terminator included: {spread(self.docids)}"
        if max(self.docids) <= 2 and len(self.docids) == 1:
            yield "every docID is one token, so no prefix is shared; a smaller tokenizer.vocab_size would cut them up"
        if self.truncated:
            yield (
                f"too long for prompt.max_length={max_length}: {self.truncated:,} queries, which lose "
                f"{self.dropped:,} documents, the lowest-ranked"
            )


def same_tokens(query: TokenizedQuery) -> Iterator[str]:
    """A message for each docID whose tokens an earlier one of the query has."""
    first: dict[tuple[int, ...], str] = {}
    for docid, ids in zip(query.docids, query.docid_ids, strict=True):
        before = first.setdefault(tuple(ids), docid)
        if before != docid:
            yield f"docIDs {before!r} and {docid!r} have the same token ids, which no model tells apart; rename one"
