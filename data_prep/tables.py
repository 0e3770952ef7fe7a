"""Tables of any kind, with the place of every row: .parquet, .jsonl, .csv, .tsv, or a `datasets` directory.

The rows of a parquet file or a `datasets` directory are counted from 0, as in `stoical.data.files`, and the lines of a
text file from 1. A .tsv file has no quotes; an empty cell is None.
"""

from __future__ import annotations

import csv
import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoical.common.lazy import pa, pq
from stoical.data.files import json_value, numbered, open_table

KINDS = ".parquet, .jsonl, .csv or .tsv file, or a directory by datasets' save_to_disk"


@dataclass(frozen=True)
class Table:
    """Columns as lists, None where a cell is empty; `names` are all that the file has, read or not.

    `lines`: the row numbers to show, where they are not 0, 1, ...
    """

    name: str
    names: Sequence[str]
    columns: dict[str, list[Any]]
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def where(self, row: int) -> str:
        """The place of a row, such as `products.parquet[17]` or `esci.jsonl:18`."""
        return f"{self.name}[{row}]" if self.lines is None else f"{self.name}:{self.lines[row]}"

    def column(self, name: str) -> list[Any]:
        """The column's cells; all None where the table lacks it."""
        return self.columns.get(name) or [None] * len(self)

    def rows(self, *names: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """(place, cells of these columns) of every row."""
        for row, cells in enumerate(zip(*map(self.column, names), strict=True)):
            yield self.where(row), cells


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """The `required` columns of a file or `datasets` directory, and those of the `optional` ones that it has.

    ValueError for one that cannot be read, lacks a column, or has a bad row.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".jsonl":
        return _read_jsonl(path, required, optional)
    if path.suffix in (".csv", ".tsv"):
        return _read_csv(path, required, optional)
    if path.is_dir():
        return from_arrow(path.name, open_table(path).with_format("arrow")[:], required, optional, str(path))
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: expected a {KINDS}")
    try:
        names = pq.read_schema(path).names
        check_columns(names, required, str(path))
        table = pq.read_table(path, columns=[name for name in (*required, *optional) if name in names])
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from None
    return replace(from_arrow(path.name, table, required, optional, str(path)), names=names)


def from_arrow(name: str, table: pa.Table, required: Sequence[str], optional: Sequence[str], file: str) -> Table:
    """The columns of an Arrow table, called `name` in messages about rows and `file` in those about columns."""
    check_columns(table.column_names, required, file)
    wanted = [column for column in (*required, *optional) if column in table.column_names]
    return Table(name, table.column_names, {column: table[column].to_pylist() for column in wanted})


def _read_jsonl(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    lines, records = [], []
    for number, record in json_lines(path):
        lines.append(number)
        records.append(record)
    keys: set[str] = set().union(*records)
    check_columns(keys, required, str(path))
    wanted = [name for name in (*required, *optional) if name in keys]
    columns = {name: [record.get(name) for record in records] for name in wanted}
    return Table(path.name, sorted(keys), columns, lines)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank. ValueError for one that is not a JSON object."""
    with path.open("rb") as file:
        for number, line in numbered(file):
            yield number, _json_object(line, f"{path}:{number}")


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    record = json_value(line, where)
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: holds half of a surrogate pair, which is not UTF-8: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, got {reprlib.repr(record)}")
    return record


def _read_csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    cells = csv_rows(path)
    _, header = next(cells, (0, []))
    check_columns(header, required, str(path))
    if len(set(header)) < len(header):
        raise ValueError(f"{path}:1: a column's name comes twice: {', '.join(header)}")
    lines, rows = [], []
    for number, row in cells:
        if len(row) != len(header):
            raise ValueError(
                f"{path}:{number}: {len(row)} cells, but the header has {len(header)}; is a quote missing?"
            )
        lines.append(number)
        rows.append(row)
    places = {name: header.index(name) for name in (*required, *optional) if name in header}
    columns = {name: [row[place] for row in rows] for name, place in places.items()}
    return Table(path.name, [str(name) for name in header], columns, lines)


def csv_rows(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """(first line, cells) of every row of a .csv or .tsv file, the header included; empty cells are None."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".tsv":
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        else:
            reader = csv.reader(file, strict=True)
        line = 1
        try:
            for row in reader:
                if row:
                    yield line, [cell or None for cell in row]
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}:{line}: {error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8, after line {line}: {error}") from None


def check_columns(names: Iterable[str], required: Sequence[str], file: str) -> None:
    """Raise ValueError, naming the file, for required columns that are not among `names`."""
    names = [str(name) for name in names]
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(missing)} (it has: {', '.join(sorted(names)) or 'none'})")


def check_text(table: Table, columns: Iterable[str]) -> Table:
    """The table, if the cells of these columns are texts or empty; ValueError, naming the place, if not."""
    for name in columns:
        for where, (cell,) in table.rows(name):
            if not (cell is None or isinstance(cell, str)):
                raise ValueError(f"{where}: {name} must be text, got {reprlib.repr(cell)}")
    return table
