"""A file of generated rows: written whole or not at all, with where it comes from beside it, and read for training.

`generated.parquet` holds the rows; `generated.json`, written last, what they were made from, their counts and the
parquet's SHA-256. A row says which row of the training split it is made of, in which shuffle of its documents
(`epoch`), and what its method has made of it (`bash_rows`, `rac_rows`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stoical.data import RankingDataset, file_sha256
from stoical.negatives import NegativeSampler
from stoical.packing import TokenizedQuery
from stoical.queries import EncodedDataset, QueryEncoder
from stoical.resume import split_sha256
from stoical.saving import write_whole
from stoical.self_training.bash_rows import bash_query
from stoical.self_training.rac_rows import rac_query
from stoical.self_training.settings import BashSettings
from stoical.settings import Recipe

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


def write_generated(folder: Path, records: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> None:
    """Write both files; a kill in between leaves rows without a record, which count as not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    draft = folder / f"{ROWS_FILE}.new"
    schema = SCHEMAS[provenance["made_from"]["method"]]
    pq.write_table(pa.Table.from_pylist(list(records), schema=schema), draft)
    draft.replace(folder / ROWS_FILE)
    record = {**provenance, "rows_sha256": file_sha256(folder / ROWS_FILE)}
    write_whole(folder / RECORD_FILE, json.dumps(record, indent=2) + "\n")


def read_provenance(rows: Path) -> dict[str, Any] | None:
    """What is known of a file of generated rows; None where the file or its record is missing or another one."""
    path = rows.with_name(RECORD_FILE)
    if not rows.is_file() or not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record if record["rows_sha256"] == file_sha256(rows) else None


def rows_made_from(recipe: Recipe) -> dict[str, Any] | None:
    """What the rows of data.generated were made from; None for a recipe without them."""
    record = read_provenance(Path(recipe.data.generated)) if recipe.data.generated is not None else None
    return None if record is None else record["made_from"]


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


def training_rows(recipe: Recipe, train: RankingDataset, encoder: QueryEncoder) -> EncodedDataset:
    """The dataset that a recipe trains on: the training split, with data.num_negatives or the rows of data.generated.

    Raises `ValueError` for a file that is missing or unfinished, or made for other data, another seed or kind of loss.
    """
    if recipe.data.generated is None:
        count = recipe.data.num_negatives
        sampler = NegativeSampler(train.docids(), count, recipe.seed) if count else None
        return EncodedDataset(train, encoder, sampler=sampler)
    path = Path(recipe.data.generated)
    record = read_provenance(path)
    if record is None:
        raise ValueError(
            f"data.generated={path}: there is no such file, or no {RECORD_FILE} beside it that was written with it; "
            "self_train.py makes both"
        )
    made_from = record["made_from"]
    for key, name, now in (
        ("train_sha256", f"data.path={recipe.data.path}", split_sha256(recipe.data.path, "train")),
        ("seed", f"seed={recipe.seed}", recipe.seed),
    ):
        if made_from[key] != now:
            raise ValueError(
                f"data.generated={path} does not go with {name}: its {key} is {made_from[key]}, and here it is {now}; "
                "have self_train.py generate rows for this recipe"
            )
    if made_from["method"] == "bash":
        BashSettings(**made_from["settings"]).check(recipe.loss, recipe.mitigations.chosen)
    return WithGenerated(train, encoder, pq.read_table(path), made_from)
