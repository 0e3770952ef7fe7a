"""A file of generated rows: written whole or not at all, with where it comes from beside it, and read for training.

`generated.parquet` holds the rows; `generated.json`, written last, what they were made from, their counts and the
parquet's SHA-256. A row names the row of the training split that it is made from, the shuffle of its documents
(`epoch`), and what its method made of it (`bash`, `rac`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stoical.common.files import file_sha256, write_whole, writing
from stoical.encoding.generated_rows import RECORD_FILE, ROWS_FILE, SCHEMAS


def write_generated(folder: Path, records: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> None:
    """Write both files; a kill in between leaves rows without a record, which count as not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    draft = folder / f"{ROWS_FILE}.new"
    schema = SCHEMAS[provenance["made_from"]["method"]]
    table = pa.Table.from_pylist(list(records), schema=schema)
    with writing(draft):
        pq.write_table(table, draft)
    draft.replace(folder / ROWS_FILE)
    record = {**provenance, "rows_sha256": file_sha256(folder / ROWS_FILE)}
    write_whole(folder / RECORD_FILE, json.dumps(record, indent=2) + "\n")
