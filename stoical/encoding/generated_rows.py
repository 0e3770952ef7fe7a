"""Rows that a model made for its own training (BASH and RAC), as they are read and trained on.

`generated.parquet` holds the rows, `generated.json` beside it what they were made from. A row names a row of the
training split, the shuffle of its documents (`epoch`), and what its method made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from stoical.common.files import file_sha256, json_object
from stoical.data.dataset import RankingDataset
from stoical.data.rows import RankingRow
from stoical.encoding.prompts import Attempt
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.encoding.tokenized import TokenizedQuery
from stoical.trie.mixed_prefix import MixedPrefix, PrefixTarget

ROWS_FILE = "generated.parquet"
RECORD_FILE = "generated.json"
_ROW = {"row": pa.int64(), "query_id": pa.string(), "epoch": pa.int64()}
SCHEMAS = {
    "bash": pa.schema(
        _ROW
        | {
            "tokens": pa.list_(pa.int32()),
            "own": pa.list_(pa.bool_()),
            "changed": pa.list_(pa.bool_()),
            "off_trie": pa.bool_(),
        }
    ),
    "rac": pa.schema(_ROW | {"previous": pa.string(), "correction": pa.list_(pa.int32()), "right": pa.bool_()}),
}
T = TypeVar("T")


def bash_query(
    record: Mapping[str, Any], row: RankingRow, encoder: QueryEncoder, target: PrefixTarget
) -> TokenizedQuery:
    """The query with the record's prefix in place of the gold one; where nothing differs, the query as it is."""
    query = encoder.encode(row, record["epoch"])
    if not any(record["changed"]):
        return query
    return replace(query, mixed=MixedPrefix(tuple(record["tokens"]), target))


def read_provenance(rows: Path) -> dict[str, Any] | None:
    """What is known of a file of generated rows; None where the file or its record is missing or another one."""
    path = rows.with_name(RECORD_FILE)
    if not rows.is_file() or not path.is_file():
        return None
    record = json_object(path)
    return record if record.get("rows_sha256") == file_sha256(rows) else None


class WithGenerated(EncodedDataset):
    """The training split, and after it the generated rows: the model is trained on both alike."""

    def __init__(self, rows: RankingDataset, encoder: QueryEncoder, table: pa.Table, made_from: Mapping[str, Any]):
        super().__init__(rows, encoder)
        self._table, self._made_from = table, made_from

    def __len__(self) -> int:
        return len(self.rows) + len(self._table)

    def __getitem__(self, index: int) -> TokenizedQuery:
        if index < len(self.rows):
            return super().__getitem__(index)
        (record,) = self._table.slice(index - len(self.rows), 1).to_pylist()
        row = self.rows[record["row"]]
        if self._made_from["method"] == "rac":
            return rac_query(record, row, self.encoder)
        return bash_query(record, row, self.encoder, self._made_from["settings"]["target"])


def top_docids(query: TokenizedQuery) -> list[str]:
    """The top docID, or those that share its rank."""
    return [docid.strip() for docid, rank in zip(query.docids, query.ranks, strict=True) if rank == min(query.ranks)]


def rac_query(record: Mapping[str, Any], row: RankingRow, encoder: QueryEncoder) -> TokenizedQuery:
    """The query with the record's answer in its prompt, and the correction as its target."""
    query = encoder.encode(row, record["epoch"], attempt=Attempt(record["previous"]))
    if record["correction"] is None:
        return without(query, record["previous"])
    ids = record["correction"]
    return replace(
        query,
        docids=[encoder.tokenizer.decode(ids)],
        docid_ids=[ids],
        counted=[encoder.docid_tokenizer.counted(ids)],
        ranks=[1],
        grades=(),
        doc_weights=(),
        teacher_scores=(),
    )


def without(query: TokenizedQuery, docid: str) -> TokenizedQuery:
    """The query as if `docid` had never been in its list, where that leaves its best docIDs; else as it is."""
    docids = list(query.docids)
    if docid not in docids or docid.strip() in top_docids(query):
        return query
    place = docids.index(docid)
    ranks = [rank - (rank > query.ranks[place]) for rank in query.ranks]
    return replace(
        query,
        docids=_but(docids, place),
        docid_ids=_but(query.docid_ids, place),
        counted=_but(query.counted, place),
        ranks=_but(ranks, place),
        grades=_but(query.grades, place),
        doc_weights=_but(query.doc_weights, place),
        teacher_scores=_but(query.teacher_scores, place),
    )


def _but(values: Sequence[T], place: int) -> list[T]:
    return [*values[:place], *values[place + 1 :]]
