"""What a row of a ranking dataset is, and what makes one invalid."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from stoical.common.fields import alike

ROW_KEYS = frozenset({"query_id", "query", "docs", "negatives", "weight"})
DOC_KEYS = frozenset({"docid", "text", "rank", "grade", "weight", "teacher_score"})
NEGATIVE_KEYS = frozenset({"docid", "text", "grade", "teacher_score"})
ROW_EXAMPLE = '{"query_id": ..., "query": ..., "docs": [...]}'
MAX_RANK = 2**31 - 1
MAX_NUMBER = 1e15  # of weights and scores: their products still are float32


@dataclass(frozen=True, slots=True)
class Doc:
    """A document: its identifier, and where the data gives them its text, its rank (1 = best) and the user's own grade.

    A grade (more is better) is what metrics and gains read; None: nobody judged the document. weight: how much it
    counts in training (None: 1). teacher_score: another model's score of it, to learn from.
    """

    docid: str
    text: str | None = None
    rank: int | None = None
    grade: float | None = None
    weight: float | None = None
    teacher_score: float | None = None


@dataclass(frozen=True, slots=True)
class RankingRow:
    """A query, its relevant documents in rank order (most relevant first) and its off-list negatives.

    weight: how much the query counts in training (None: 1).
    """

    query_id: str
    query: str
    docs: tuple[Doc, ...]
    negatives: tuple[Doc, ...] = ()
    weight: float | None = None

    @staticmethod
    def of(
        query: str,
        docs: Iterable[str | Mapping[str, Any]],
        negatives: Iterable[str | Mapping[str, Any]] = (),
        query_id: str | None = None,
        weight: float | None = None,
    ) -> RankingRow:
        """A row of documents, best first; its id is the query unless one is given.

            RankingRow.of("deer", ["ruminant", "mammal"], negatives=["solarization"])
            RankingRow.of("deer", [{"docid": "ruminant", "text": "chews twice"}, {"docid": "mammal", "text": "..."}])

        A document is its docID, or a mapping with `docid` and, if wanted, `text`, `rank`, `grade`, `weight` and
        `teacher_score`. Raises `ValueError` as `parse_row` does.
        """
        where = f"query {query!r}"
        listed = {"docs": as_objects(docs, where), "negatives": as_objects(negatives, where)}
        own = {"query_id": query if query_id is None else query_id, "query": query, "weight": weight}
        return parse_row(own | listed, where)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each doc, from 1: as given in the data (ties possible), else its position."""
        return tuple(i if doc.rank is None else doc.rank for i, doc in enumerate(self.docs, 1))


def as_objects(docs: Iterable[str | Mapping[str, Any]], where: str) -> list[Any]:
    """Documents as a row has them, docIDs as `{"docid": ...}`. Raises `ValueError` for what is not a list of them."""
    if isinstance(docs, str | Mapping) or not isinstance(docs, Iterable):
        raise ValueError(f"{where}: the documents must be a list of docIDs or of {{'docid': ..., 'text': ...}}")
    return [{"docid": doc} if isinstance(doc, str) else doc for doc in docs]


def parse_row(raw: Mapping[str, Any], where: str) -> RankingRow:
    """A validated row. `where` (such as `data/foo/train.jsonl:17`) opens every message.

    Raises ValueError for a field that is missing, blank or of the wrong type, an unknown key, a docID that
    occurs twice (negatives included), a rank that is not a positive integer, that is lower than the one before or
    higher than its place, or that is missing where other docs have one, a grade, a weight or a teacher's score that is
    not a finite number, and a weight below 0.
    """
    _check_object(raw, ROW_KEYS, where, ROW_EXAMPLE)
    query_id, query = _string(raw, "query_id", where), _string(raw, "query", where)
    docs = _documents(raw, "docs", DOC_KEYS, where)
    negatives = () if raw.get("negatives") is None else _documents(raw, "negatives", NEGATIVE_KEYS, where)
    _check_distinct(docs, negatives, where)
    _check_ranks(docs, where)
    return RankingRow(query_id, query, docs, negatives, _weight(raw, where))


def row_problems(raw: Any, where: str) -> list[str]:
    """Every problem of a row: one for each key, document and check, `parse_row`'s among them. Empty for a valid row."""
    problems: list[str] = []

    def passed(check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except ValueError as error:
            problems.append(str(error))

    passed(_check_object, raw, ROW_KEYS, where, ROW_EXAMPLE)
    if not isinstance(raw, Mapping):
        return problems
    for key in ("query_id", "query"):
        passed(_string, raw, key, where)
    passed(_weight, raw, where)
    valid: list[Doc] = []
    for key, known in (("docs", DOC_KEYS), ("negatives", NEGATIVE_KEYS)):
        optional = key == "negatives" and raw.get(key) is None
        items = [] if optional else passed(_list, raw, key, where) or []
        parsed = [passed(_document, item, known, f"{where}: {key}[{i}]") for i, item in enumerate(items)]
        if key == "docs" and None not in parsed:
            passed(_check_ranks, parsed, where)
        valid += [doc for doc in parsed if doc]
    passed(_check_distinct, valid, (), where)
    return problems


def _check_object(raw: Any, known: frozenset[str], where: str, example: str) -> None:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: expected an object like {example}, got {reprlib.repr(raw)}")
    if raw.keys() <= known:
        return
    key = next(key for key in raw if key not in known)
    close = alike(str(key), sorted(known), cutoff=0.5)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(f"{where}: unknown key {key!r}{hint} (known keys: {', '.join(sorted(known))})")


def _string(raw: Mapping[str, Any], key: str, where: str) -> str:
    """The non-blank string under `key`."""
    if key not in raw:
        raise ValueError(f"{where}: {key!r} is missing")
    value = raw[key]
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} must be a string, got {reprlib.repr(value)}")
    if not value.strip():
        raise ValueError(f"{where}: {key!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {key!r} holds half of a surrogate pair ({error})") from None
    return value


def _documents(raw: Mapping[str, Any], key: str, known: frozenset[str], where: str) -> tuple[Doc, ...]:
    items = _list(raw, key, where)
    return tuple(_document(item, known, f"{where}: {key}[{i}]") for i, item in enumerate(items))


def _list(raw: Mapping[str, Any], key: str, where: str) -> list[Any]:
    if key not in raw:
        raise ValueError(f"{where}: {key!r} is missing")
    value = raw[key]
    if not isinstance(value, list):
        raise ValueError(f'{where}: {key!r} must be a list of {{"docid": ...}}, got {reprlib.repr(value)}')
    if key == "docs" and not value:
        raise ValueError(f"{where}: 'docs' is empty; a row needs at least one relevant document")
    return value


def _document(raw: Any, known: frozenset[str], where: str) -> Doc:
    _check_object(raw, known, where, '{"docid": ...}')
    text = None if raw.get("text") is None else _string(raw, "text", where)
    rank = raw.get("rank")
    if rank is not None and not (type(rank) is int and 1 <= rank <= MAX_RANK):
        raise ValueError(f"{where}: 'rank' must be a positive integer (1 = best), got {reprlib.repr(rank)}")
    own = {"grade": _grade(raw, where), "weight": _weight(raw, where)}
    return Doc(_string(raw, "docid", where), text, rank, **own, teacher_score=_number(raw, "teacher_score", where))


def _weight(raw: Mapping[str, Any], where: str) -> float | None:
    """The weight, if there is one: a finite number, 0 or more."""
    weight = _number(raw, "weight", where)
    if weight is not None and weight < 0:
        raise ValueError(f"{where}: 'weight' must not be negative, got {weight:g}; 0 leaves it out of the loss")
    return weight


def _number(raw: Mapping[str, Any], key: str, where: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{where}: {key!r} must be a finite number, got {reprlib.repr(value)}")
    return float(value)


def check_teacher(row: RankingRow, where: str) -> None:
    """Raise ValueError where a document or negative of the row has no teacher's score."""
    for key, docs in (("docs", row.docs), ("negatives", row.negatives)):
        for place, doc in enumerate(docs):
            if doc.teacher_score is None:
                raise ValueError(
                    f"{where}: {key}[{place}] ({doc.docid!r}) has no 'teacher_score', and the loss learns from a "
                    "teacher's scores; give one to every document and negative, or choose another loss.ranking"
                )


def _grade(raw: Mapping[str, Any], where: str) -> float | None:
    grade = raw.get("grade")
    if grade is None:
        return None
    try:
        if isinstance(grade, int | float) and not isinstance(grade, bool) and math.isfinite(grade):
            return float(grade)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise ValueError(f"{where}: 'grade' must be a finite number (more is better), got {reprlib.repr(grade)}")


def _check_distinct(docs: Sequence[Doc], negatives: Sequence[Doc], where: str) -> None:
    seen: set[str] = set()
    for doc in chain(docs, negatives):
        if doc.docid in seen:
            raise ValueError(f"{where}: the docid {doc.docid!r} occurs twice among 'docs' and 'negatives'; keep one")
        seen.add(doc.docid)


def _check_ranks(docs: Sequence[Doc], where: str) -> None:
    ranks = [doc.rank for doc in docs if doc.rank is not None]
    if ranks and len(ranks) < len(docs):
        raise ValueError(f"{where}: some docs have a 'rank' and some do not; give it to all, or to none")
    for i, (before, rank) in enumerate(pairwise(ranks), 1):
        if rank < before:
            raise ValueError(f"{where}: docs[{i}] has rank {rank} after rank {before}; order docs best first")
    for i, rank in enumerate(ranks):
        if rank > i + 1:
            raise ValueError(f"{where}: docs[{i}] has rank {rank}, but only {i} docs before it; ranks start at 1")
