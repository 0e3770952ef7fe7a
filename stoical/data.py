"""The ranking dataset: what a row is, how a split is loaded, and what makes a row invalid.

A row is a query with its relevant documents, most relevant first:

    {"query_id": "q1", "query": "deer", "docs": [{"docid": "ruminant"}, {"docid": "mammal", "text": "..."}],
     "negatives": [{"docid": "solarization"}]}

`text`, `rank` and `negatives` are optional. Negatives are never in the prompt: evaluation scores them, and training may
compare with them.

  python -m stoical.data validate FILE_OR_DIR

tells every problem of a file or a dataset directory; `python -m stoical.data` alone, what else it can tell.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, overload

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from stoical.data_files import BATCH_ROWS, check_directory, decoded, find_split, jsonl_lines, open_table, table_records

ROW_KEYS = frozenset({"query_id", "query", "docs", "negatives"})
DOC_KEYS = frozenset({"docid", "text", "rank"})
NEGATIVE_KEYS = frozenset({"docid", "text"})
ROW_EXAMPLE = '{"query_id": ..., "query": ..., "docs": [...]}'
MAX_RANK = 2**31 - 1

_NEGATIVE = {"docid": pa.string(), "text": pa.string()}
_DOC = _NEGATIVE | {"rank": pa.int64()}
_LISTS = {"docs": pa.list_(pa.struct(_DOC)), "negatives": pa.list_(pa.struct(_NEGATIVE))}
SCHEMA = pa.schema({"query_id": pa.string(), "query": pa.string()} | _LISTS)


@dataclass(frozen=True, slots=True)
class Doc:
    """A document: its identifier, its text if any, and its rank (1 = best) where the data gives one."""

    docid: str
    text: str | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class RankingRow:
    """A query, its relevant documents in rank order (most relevant first) and its off-list negatives."""

    query_id: str
    query: str
    docs: tuple[Doc, ...]
    negatives: tuple[Doc, ...] = ()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each doc, from 1: as given in the data (ties possible), else its position."""
        return tuple(i if doc.rank is None else doc.rank for i, doc in enumerate(self.docs, 1))


def parse_row(raw: Mapping[str, Any], where: str) -> RankingRow:
    """A validated row. `where` (such as `data/foo/train.jsonl:17`) opens every message.

    Raises ValueError for a field that is missing, blank or of the wrong type, an unknown key, a docID that
    occurs twice (negatives included), and a rank that is no positive integer, lower than the one before, higher
    than its place, or missing where other docs have one.
    """
    _check_object(raw, ROW_KEYS, where, ROW_EXAMPLE)
    query_id, query = _string(raw, "query_id", where), _string(raw, "query", where)
    docs = _documents(raw, "docs", DOC_KEYS, where)
    negatives = () if raw.get("negatives") is None else _documents(raw, "negatives", NEGATIVE_KEYS, where)
    _check_distinct(docs, negatives, where)
    _check_ranks(docs, where)
    return RankingRow(query_id, query, docs, negatives)


def row_problems(raw: Any, where: str) -> list[str]:
    """Every problem of a row, one for each key, document and check, `parse_row`'s among them; empty for a valid row."""
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
    close = difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
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
    return Doc(_string(raw, "docid", where), text, rank)


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


class RankingDataset(Sequence[RankingRow]):
    """The rows of one split, read on demand from an Arrow table (memory-mapped unless it came from JSONL).

    `name` is `<directory>/<split>`. The table must hold valid rows: `load_split` checks them.
    """

    def __init__(self, name: str, table: datasets.Dataset) -> None:
        self.name = name
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> RankingRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[RankingRow]: ...
    def __getitem__(self, index: int | slice) -> RankingRow | list[RankingRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = self._table[index]
        docs = tuple(Doc(**doc) for doc in record["docs"])
        negatives = tuple(Doc(**doc) for doc in record.get("negatives") or ())
        return RankingRow(record["query_id"], record["query"], docs, negatives)

    def docids(self) -> list[str]:
        """The distinct docIDs of the split's documents (negatives not among them), sorted."""
        found: set[str] = set()
        for batch in self._table.select_columns("docs").with_format("arrow").iter(BATCH_ROWS):
            found.update(pc.struct_field(pc.list_flatten(batch["docs"]), "docid").unique().to_pylist())
        return sorted(found)

    def longest_list(self) -> int:
        """The most documents that a row has."""
        batches = self._table.select_columns("docs").with_format("arrow").iter(BATCH_ROWS)
        return max(pc.max(pc.list_value_length(batch["docs"])).as_py() for batch in batches)


def load_split(directory: str | Path, split: str) -> RankingDataset:
    """The split of a dataset directory, every row of it validated.

    Reads `<directory>/<split>.jsonl`, `<split>.parquet` or `<split>/` (from `datasets`' `save_to_disk`).
    Raises ValueError if there is none of them or several, for a bad row (naming file and line), for a
    query_id that occurs twice, and for a split without rows.
    """
    path = find_split(Path(directory), split)
    if path.suffix == ".jsonl":
        table = _table(_checked(jsonl_lines(path), path))
    else:
        table = open_table(path)
        for _ in _checked(table_records(table, path), path):
            pass
    if len(table) == 0:
        raise ValueError(f"{path} holds no rows")
    return RankingDataset(f"{Path(directory).resolve().name}/{split}", table)


def _table(records: Iterable[Mapping[str, Any]]) -> datasets.Dataset:
    """An Arrow table in memory."""
    records, batches = iter(records), []
    while batch := list(islice(records, BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
    return datasets.Dataset(pa.Table.from_batches(batches, schema=SCHEMA))


def _checked(records: Iterable[tuple[str, Any]], path: Path) -> Iterator[Mapping[str, Any]]:
    """The records, while valid and of different query_id; a progress bar on rank 0 after three seconds."""
    first: dict[str, str] = {}  # query_id -> where
    hidden = True if os.environ.get("RANK", "0") != "0" else None  # None: show on a terminal only
    for where, row in tqdm(records, f"checking {path}", delay=3, leave=False, disable=hidden):
        record = decoded(row, where)
        query_id = parse_row(record, where).query_id
        if query_id in first:
            raise ValueError(f"{where}: query_id {query_id!r} was used before, at {first[query_id]}")
        first[query_id] = where
        yield record


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest.json of a dataset directory: source, version, counts, sha256, seed, licence.

    Raises ValueError if the directory or the file is missing, or if the file is not a JSON object.
    """
    check_directory(Path(directory))
    path = Path(directory) / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; data_prep writes one, and for your own data you do")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} must hold a JSON object, got {reprlib.repr(manifest)}")
    return manifest


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    from stoical.validate import main

    sys.exit(main(sys.argv[1:]))
