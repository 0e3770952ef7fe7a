"""How many tokens a dataset's prompts and docIDs have, what truncation drops, and which docIDs are one to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from stoical.build import build_encoder, build_tokenizer
from stoical.config import load_recipe
from stoical.data import parse_row
from stoical.data_files import decoded, raw_rows
from stoical.packing import TokenizedQuery
from stoical.validate import Problems, spread


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


def token_lines(
    path: Path, files: Sequence[Path], settings: Sequence[str], problems: Problems
) -> dict[Path, list[str]]:
    """Lines to print for each of the valid `files` of the dataset `path`, tokenized as a recipe's settings say.

    Queries that training would stop at are noted as problems. Raises ValueError for settings that are wrong.
    """
    recipe = load_recipe(settings)
    recipe.data.path = str(path)
    if recipe.tokenizer.name == "bpe" and path in files:
        raise ValueError("tokenizer.name=bpe is trained on the train split: give the dataset directory, not one split")
    encoder = build_encoder(recipe, build_tokenizer(recipe))
    lines = {}
    for file in files:
        counts = TokenCounts()
        for where, raw in tqdm(raw_rows(file), f"tokenizing {file}", delay=3, leave=False, disable=None):
            row = parse_row(decoded(raw, where), where)
            try:
                query = encoder.encode(row, negatives=True)
            except ValueError as error:
                problems.add([f"{where}: {error}"])
                continue
            problems.add(f"{where}: {message}" for message in _same_tokens(query))
            counts.add(query)
        lines[file] = list(counts.lines(recipe.prompt.max_length)) if counts.prompts else []
    return lines


def _same_tokens(query: TokenizedQuery) -> Iterator[str]:
    """A message for each docID whose tokens an earlier one of the query has."""
    first: dict[tuple[int, ...], str] = {}
    for docid, ids in zip(query.docids, query.docid_ids, strict=True):
        before = first.setdefault(tuple(ids), docid)
        if before != docid:
            yield f"docIDs {before!r} and {docid!r} have the same token ids, which no model tells apart; rename one"
