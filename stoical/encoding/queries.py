"""Dataset rows to `TokenizedQuery`s: shuffle, truncate, render, tokenize."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from stoical.common.progress import progress
from stoical.data.negatives import NegativeSampler
from stoical.data.rows import Doc, RankingRow
from stoical.encoding.prompts import Attempt, PromptTemplate, load_template, shuffled
from stoical.encoding.tokenization import DocIDTokenizer, encode_prompt
from stoical.encoding.tokenized import Terminator, TokenizedQuery

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY = 20_000  # documents of a row that take seconds


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """Everything between a dataset row and token ids.

        encoder = QueryEncoder.of(AutoTokenizer.from_pretrained("gpt2"), "compact")
        query = encoder.encode(RankingRow.of("deer", ["ruminant", "mammal"]))

    max_length: of the prompt and the longest docID together, in tokens. seed: of the order in which a prompt lists its
    documents, which is another for every query_id and epoch.
    """

    template: PromptTemplate
    tokenizer: PreTrainedTokenizerBase
    docid_tokenizer: DocIDTokenizer
    max_length: int
    seed: int

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        template: str | PromptTemplate = "compact",
        max_length: int = 1024,
        seed: int = 0,
        terminator: Terminator = "eos",
        count_terminator: bool = True,
    ) -> Self:
        """An encoder for a tokenizer, with a prompt template by name, by the path of a YAML file, or as it is.

        terminator: what ends every docID; count_terminator: whether it counts in loss and score. Raises `ValueError`
        for a template that is not there, or not as it should be, and for a tokenizer without EOS to end docIDs with.
        """
        if terminator == "eos" and tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token to end docIDs with; give it one, or terminator='none'")
        prompt = load_template(template) if isinstance(template, str) else template
        return cls(prompt, tokenizer, DocIDTokenizer(tokenizer, terminator, count_terminator), max_length, seed)

    def encode(
        self, row: RankingRow, epoch: int = 0, negatives: bool = False, attempt: Attempt | None = None
    ) -> TokenizedQuery:
        """Shuffle (by seed, epoch and query id), render and tokenize; rank r is a doc's own, or its place in the row.

        With an `attempt`, the prompt asks to correct it; the targets are the same. Documents that share a rank come in
        an order drawn by seed, epoch and query id, whatever order the row has them in.

        A query that is too long loses whole documents, the lowest-ranked first, from prompt and trie alike. Raises
        `ValueError` naming the query where even its top document does not fit, and for docIDs that make no tokens.
        """
        row = with_drawn_ties(row, self.seed, epoch)
        try:
            listed: Iterable[Doc] = (*row.docs, *(row.negatives if negatives else ()))
            if len(row.docs) > MANY:
                listed = progress(listed, f"tokenizing documents of query {row.query_id!r}")
            docids = [self.docid_tokenizer(doc.docid) for doc in listed]
            docs, prompt_ids = self._fit(row, docids, epoch, attempt)
        except ValueError as error:
            raise ValueError(f"query {row.query_id!r}: {error}") from error
        kept_negatives = row.negatives if negatives else ()
        ids = [*docids[: len(docs)], *docids[len(row.docs) :]]
        return TokenizedQuery(
            query_id=row.query_id,
            prompt_ids=prompt_ids,
            docids=[doc.docid for doc in (*docs, *kept_negatives)],
            docid_ids=ids,
            counted=[self.docid_tokenizer.counted(tokens) for tokens in ids],
            ranks=[*row.ranks[: len(docs)], *[len(docs) + 1] * len(kept_negatives)],
            num_negatives=len(kept_negatives),
            num_dropped=len(row.docs) - len(docs),
            weight=1.0 if row.weight is None else row.weight,
            doc_weights=_numbers([doc.weight for doc in docs], 1.0),
            teacher_scores=_numbers([doc.teacher_score for doc in (*docs, *kept_negatives)], math.nan),
            grades=[doc.grade for doc in (*docs, *kept_negatives)],
        )

    def with_negatives(
        self, query: TokenizedQuery, docids: Sequence[str], scored: Mapping[str, float | None] = MappingProxyType({})
    ) -> TokenizedQuery:
        """The same query, prompt included, with these docIDs as negatives, for an objective to compare with.

        scored: the teacher's scores of those that have one. One that does not fit beside the prompt, or has the token
        ids of another of the query's, is left out.
        """
        room, taken = self.max_length - len(query.prompt_ids), {tuple(ids) for ids in query.docid_ids}
        added: dict[tuple[int, ...], str] = {}
        for docid in docids:
            ids = tuple(self.docid_tokenizer(docid))
            if len(ids) <= room and ids not in taken:
                added.setdefault(ids, docid)
        scores = query.teacher_scores
        if scores:
            scores = [*scores, *_filled([scored.get(docid) for docid in added.values()], math.nan)]
        return replace(
            query,
            docids=[*query.docids, *added.values()],
            docid_ids=[*query.docid_ids, *map(list, added)],
            counted=[*query.counted, *map(self.docid_tokenizer.counted, added)],
            ranks=[*query.ranks, *[len(query.docids) + 1] * len(added)],
            num_negatives=len(added),
            grades=[*query.grades, *[None] * len(added)] if query.grades else (),
            teacher_scores=scores,
        )

    def render(self, row: RankingRow, docs: Sequence[Doc], epoch: int, attempt: Attempt | None = None) -> str:
        """The prompt's text with `docs` shuffled for this epoch."""
        return self.template.render(row.query, shuffled(docs, self.seed, epoch, row.query_id), attempt)

    def _fit(
        self, row: RankingRow, docid_ids: Sequence[Sequence[int]], epoch: int, attempt: Attempt | None
    ) -> tuple[Sequence[Doc], list[int]]:
        """As many of the top documents as fit, found by bisection, and the prompt that holds them."""
        negatives = docid_ids[len(row.docs) :]

        def budget(count: int) -> int:
            return self.max_length - max(len(ids) for ids in (*docid_ids[:count], *negatives))

        def prompt(count: int) -> list[int]:
            return encode_prompt(self.tokenizer, self.render(row, row.docs[:count], epoch, attempt))

        kept, too_many, prompt_ids = 0, len(row.docs) + 1, []
        count = len(row.docs)  # most queries fit as they are
        while too_many - kept > 1:
            ids = prompt(count)
            if len(ids) <= budget(count):
                kept, prompt_ids = count, ids
            else:
                too_many = count
            count = (kept + too_many) // 2
        if not kept:
            raise ValueError(
                f"the prompt with its top document alone is {len(prompt(1))} tokens, and prompt.max_length="
                f"{self.max_length} leaves {budget(1)}; raise prompt.max_length or shorten the document"
            )
        return row.docs[:kept], prompt_ids


def _numbers(values: Sequence[float | None], rest: float) -> list[float]:
    """The values, `rest` where there is none; empty where none has a value."""
    if all(value is None for value in values):
        return []
    return _filled(values, rest)


def _filled(values: Sequence[float | None], rest: float) -> list[float]:
    return [rest if value is None else value for value in values]


def with_drawn_ties(row: RankingRow, seed: int, epoch: int) -> RankingRow:
    """The row, documents of one rank in an order drawn by seed, epoch and query id: the file's order says nothing.

    So whatever takes the first of several equals (truncation, the order of prompts, a gold docID) draws one of them.
    """
    if len(set(row.ranks)) == len(row.docs):
        return row
    drawn = sorted(row.docs, key=lambda doc: doc.docid)
    random.Random(f"{seed}/{epoch}/{row.query_id}/ties").shuffle(drawn)
    return replace(row, docs=tuple(sorted(drawn, key=lambda doc: doc.rank or 0)))


FILLER = -1  # the index of a query that counts nothing, for a process that has none left in an epoch


class EncodedDataset:
    """Rows as a data loader takes them, a map-style dataset; `set_epoch` (which accelerate calls) picks the shuffle.

        queries = EncodedDataset(load_split("data/wordnet", "train"), encoder)  # a list of RankingRows will do
        batch = TrieTargetCollator()([queries[0], queries[1]])["batch"]

    negatives: with those of the rows, as evaluation scores them. sampler: with negatives drawn again every epoch, as
    training may compare with them; they change neither the prompt nor which documents fit.
    """

    def __init__(
        self,
        rows: Sequence[RankingRow],
        encoder: QueryEncoder,
        negatives: bool = False,
        sampler: NegativeSampler | None = None,
    ) -> None:
        self.rows, self.encoder, self.negatives, self.sampler = rows, encoder, negatives, sampler
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenizedQuery:
        if index == FILLER:
            return replace(self[0], filler=True)
        row = self.rows[index]
        query = self.encoder.encode(row, self.epoch, self.negatives)
        if self.sampler is None:
            return query
        scored = {doc.docid: doc.teacher_score for doc in row.negatives}
        return self.encoder.with_negatives(query, self.sampler.draw(row, self.epoch), scored)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle every query's documents, and draw its negatives, for this epoch."""
        self.epoch = epoch
