"""The rows of one split of a ranking dataset, loaded and checked.

A row is a query with its relevant documents, most relevant first:

    {"query_id": "q1", "query": "deer", "docs": [{"docid": "ruminant"}, {"docid": "mammal", "text": "..."}],
     "negatives": [{"docid": "solarization"}]}

`text`, `rank`, `grade`, `negatives`, `weight` and `teacher_score` (see `rows`) are optional. Negatives are never in the
prompt: evaluation scores them, and training may compare with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from stoical.common.lazy import pa, pc
from stoical.common.progress import progress
from stoical.common.text_files import kind
from stoical.data.files import BATCH_ROWS, decoded, find_split, jsonl_lines, open_table, table_records
from stoical.data.rows import Doc, RankingRow, check_teacher, parse_row

if TYPE_CHECKING:
    import datasets


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
        return RankingRow(record["query_id"], record["query"], docs, negatives, record.get("weight"))

    def docids(self) -> list[str]:
        """The distinct docIDs of the split's documents (negatives not among them), sorted."""
        found: set[str] = set()
        for batch in self._table.select_columns("docs").with_format("arrow").iter(BATCH_ROWS):
            found.update(pc.struct_field(pc.list_flatten(batch["docs"]), "docid").unique().to_pylist())
        return sorted(found)

    @property
    def weighted(self) -> bool:
        """True where a row or a document has a weight other than 1."""
        return any(_weighs(batch) for batch in self._table.with_format("arrow").iter(BATCH_ROWS))

    def longest_list(self) -> int:
        """The most documents that a row has."""
        batches = self._table.select_columns("docs").with_format("arrow").iter(BATCH_ROWS)
        return max(pc.max(pc.list_value_length(batch["docs"])).as_py() for batch in batches)


def _weighs(batch: pa.Table) -> bool:
    docs = pc.list_flatten(batch["docs"])
    columns = [batch["weight"]] if "weight" in batch.column_names else []
    if "weight" in (field.name for field in docs.type):
        columns.append(pc.struct_field(docs, "weight"))
    return any(pc.any(pc.not_equal(column, 1.0)).as_py() for column in columns)


def load_split(directory: str | Path, split: str, teacher: bool = False) -> RankingDataset:
    """The split of a dataset directory, every row of it validated; with `teacher`, all documents have its scores.

        rows = load_split("data/wordnet", "test")
        rows[0].query, [doc.docid for doc in rows[0].docs]

    Reads `<directory>/<split>.jsonl` (or `.jsonl.gz`), `<split>.parquet` or `<split>/` (from `datasets`'
    `save_to_disk`).
    Raises ValueError where none or several of these exist, for a bad row (naming file and line), for a query_id that
    occurs twice, and for a split without rows.
    """
    path = find_split(Path(directory), split)
    if kind(path) == ".jsonl":
        table = _table(_checked(jsonl_lines(path), path, teacher))
    else:
        table = open_table(path)
        for _ in _checked(table_records(table, path), path, teacher):
            pass
    if len(table) == 0:
        raise ValueError(f"{path} holds no rows")
    return RankingDataset(f"{Path(directory).resolve().name}/{split}", table)


def row_schema() -> pa.Schema:
    """The Arrow schema of rows, with the keys that are optional."""
    negative = {"docid": pa.string(), "text": pa.string(), "grade": pa.float64(), "teacher_score": pa.float64()}
    lists = {"docs": negative | {"rank": pa.int64(), "weight": pa.float64()}, "negatives": negative}
    own = {"query_id": pa.string(), "query": pa.string(), "weight": pa.float64()}
    return pa.schema(own | {key: pa.list_(pa.struct(fields)) for key, fields in lists.items()})


def _table(records: Iterable[Mapping[str, Any]]) -> datasets.Dataset:
    """An Arrow table in memory."""
    import datasets

    records, batches, schema = iter(records), [], row_schema()
    while batch := list(islice(records, BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema=schema))
    return datasets.Dataset(pa.Table.from_batches(batches, schema=schema))


def _checked(records: Iterable[tuple[str, Any]], path: Path, teacher: bool) -> Iterator[Mapping[str, Any]]:
    """The records, while valid and of different query_id; rank 0 shows its progress."""
    first: dict[str, str] = {}  # query_id -> where
    for where, row in progress(records, f"checking {path}", shown=os.environ.get("RANK", "0") == "0"):
        record = decoded(row, where)
        parsed = parse_row(record, where)
        if teacher:
            check_teacher(parsed, where)
        query_id = parsed.query_id
        if query_id in first:
            raise ValueError(f"{where}: query_id {query_id!r} was used before, at {first[query_id]}")
        first[query_id] = where
        yield record
