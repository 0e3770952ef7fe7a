"""Read ESCI: the two official parquet files, a hub dataset, one joined file, or files of queries and of titles.

A `SourceTable` has the columns that are needed, and says where a row of it came from. `parquet` rows are counted from
0, as `stoical.data` does, and the lines of a JSONL file from 1.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCTS = "shopping_queries_dataset_products.parquet"
TITLE_COLUMNS = ("product_id", "product_title", "product_locale")
PAIR_COLUMNS = ("query", "product_id", "product_locale")
QUERY_COLUMNS = ("query", "product_locale")
OPTIONAL = ("query_id", "split", "esci_label")
"""Used where a table has them."""
HOW_TO_GET = (
    f"a directory with {EXAMPLES} and {PRODUCTS} from github.com/amazon-science/esci-data, one joined .parquet or "
    ".jsonl file, or the hub id tasksource/esci"
)


@dataclass(frozen=True)
class SourceTable:
    """Columns as lists, None where a cell is empty. `lines`: the row numbers to show, where they are not 0, 1, ..."""

    name: str
    columns: dict[str, list[Any]]
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.columns["product_locale"])

    def where(self, row: int) -> str:
        """The place of a row, such as `products.parquet[17]` or `esci.jsonl:18`."""
        return f"{self.name}[{row}]" if self.lines is None else f"{self.name}:{self.lines[row]}"

    def column(self, name: str) -> list[Any]:
        """The column's cells; all None where the table lacks it."""
        return self.columns.get(name) or [None] * len(self)


@dataclass(frozen=True)
class Source:
    """The tables that hold queries, those that hold titles and those that hold judged pairs; one may be all three."""

    name: str
    revision: str | None
    queries: list[SourceTable]
    titles: list[SourceTable]
    pairs: list[SourceTable]


def read_source(source: str, revision: str) -> Source:
    """A directory with the official files, one joined file, or a hub id. ValueError for anything else."""
    path = Path(source)
    if not source:
        raise ValueError(f"source= is missing: give {HOW_TO_GET}")
    if revision and path.exists():
        raise ValueError(f"revision={revision} has no effect with files: drop it")
    if path.is_dir():
        return _official(path)
    joined = (*TITLE_COLUMNS, "query")
    if path.is_file():
        table = read_table(path, joined)
        return Source(path.name, None, [table], [table], [table])
    if path.suffix or len(path.parts) != 2:
        raise ValueError(f"source={source}: there is no such file or directory; give {HOW_TO_GET}")
    tables = _from_hub(source, revision, joined)
    return Source(source, revision or None, tables, tables, tables)


def read_separate(queries: str, titles: str) -> Source:
    """One file of queries and, separated by commas, one or more of titles. No judged pairs."""
    if not (queries and titles):
        raise ValueError("queries= and titles= go together: one file of queries, and one or more of titles")
    paths = [Path(path) for path in titles.split(",")]
    name = ", ".join(path.name for path in [Path(queries), *paths])
    title_tables = [read_table(path, TITLE_COLUMNS) for path in paths]
    return Source(name, None, [read_table(Path(queries), QUERY_COLUMNS)], title_tables, [])


def _official(directory: Path) -> Source:
    missing = [name for name in (EXAMPLES, PRODUCTS) if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory} has no {' and no '.join(missing)}; give {HOW_TO_GET}")
    examples = read_table(directory / EXAMPLES, PAIR_COLUMNS)
    return Source(
        "amazon-science/esci-data", None, [examples], [read_table(directory / PRODUCTS, TITLE_COLUMNS)], [examples]
    )


def read_table(path: Path, required: Sequence[str]) -> SourceTable:
    """The table of a .parquet or .jsonl file. ValueError for one that cannot be read or lacks a column."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".jsonl":
        return _read_jsonl(path, required)
    try:
        names = pq.read_schema(path).names
        _check_columns(names, required, str(path))
        wanted = [name for name in (*required, *OPTIONAL) if name in names]
        return _from_arrow(path.name, pq.read_table(path, columns=wanted))
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from None


def _from_hub(name: str, revision: str, required: Sequence[str]) -> list[SourceTable]:
    """A table for each split of a hub dataset, with the split's name as its column `split` unless it has one."""
    try:
        splits = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"source={name} is no file here and cannot be loaded from the hub: {reason}") from None
    tables = []
    for split, data in splits.items():
        _check_columns(data.column_names, required, f"{name}/{split}")
        wanted = [column for column in (*required, *OPTIONAL) if column in data.column_names]
        table = _from_arrow(f"{name}/{split}", data.select_columns(wanted).with_format("arrow")[:])
        table.columns.setdefault("split", [split] * len(table))
        tables.append(table)
    return tables


def _from_arrow(name: str, table: pa.Table) -> SourceTable:
    columns = {column: table[column].to_pylist() for column in table.column_names}
    return _checked(SourceTable(name, columns))


def _read_jsonl(path: Path, required: Sequence[str]) -> SourceTable:
    lines, records = [], []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                lines.append(number)
                records.append(_json_object(line, f"{path}:{number}"))
    keys: set[str] = set().union(*records)
    _check_columns(keys, required, str(path))
    wanted = [name for name in (*required, *OPTIONAL) if name in keys]
    return _checked(SourceTable(path.name, {name: [record.get(name) for record in records] for name in wanted}, lines))


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        line.decode().encode()
        json.dumps(record, ensure_ascii=False).encode()
    except ValueError as error:  # a syntax error, bytes that are not UTF-8, or half of a surrogate pair
        raise ValueError(f"{where}: not a JSON object on one line, in UTF-8: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, got {reprlib.repr(record)}")
    return record


def _check_columns(names: Iterable[str], required: Sequence[str], file: str) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(missing)} (it has: {', '.join(sorted(names)) or 'none'})")


def _checked(table: SourceTable) -> SourceTable:
    """The table, if its texts are texts; ids may be numbers."""
    for name in {"query", "product_title", "product_locale", "split", "esci_label"} & table.columns.keys():
        for row, cell in enumerate(table.columns[name]):
            if not (cell is None or isinstance(cell, str)):
                raise ValueError(f"{table.where(row)}: {name} must be text, got {reprlib.repr(cell)}")
    return table
