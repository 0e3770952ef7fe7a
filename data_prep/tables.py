"""Tables of any kind, with the place of every row: .parquet, .jsonl, .csv, .tsv, or a `datasets` directory.

The rows of a parquet file or a `datasets` directory are counted from 0, as in `stoical.data.files`, and the lines of a
text file from 1. Text files may be gzipped. An empty cell is None.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoical.common.lazy import pa, pq
from stoical.common.progress import progress
from stoical.common.text_files import kind, opened
from stoical.data.files import json_line, numbered, open_table

from .separated import csv_rows

KINDS = ".parquet, .jsonl, .csv or .tsv file (text may be gzipped), or a directory by datasets' save_to_disk"


@dataclass(frozen=True)
class Table:
    """Columns as lists, None where a cell is empty; `names` are all that the file has, read or not.

    `size`: the number of rows. `lines`: the row numbers to show, where they are not 0, 1, ...
    """

    name: str
    names: Sequence[str]
    columns: dict[str, list[Any]]
    size: int
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.size

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

    A column has the name that was asked for, where the file's differs from it in capitals or blanks around it alone.
    ValueError for a file that cannot be read, lacks a column, or has a bad row.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if path.is_dir():
        return from_arrow(path.name, open_table(path).with_format("arrow")[:], required, optional, str(path))
    if kind(path) == ".jsonl":
        return _read_jsonl(path, required, optional)
    if kind(path) in (".csv", ".tsv"):
        return _read_csv(path, required, optional)
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path}: expected a {KINDS}")
    try:
        names = pq.read_schema(path).names
        found = matched(names, (*required, *optional))
        check_columns(names, required, str(path))
        table = pq.read_table(path, columns=[*dict.fromkeys(found.values())])
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from None
    return replace(from_arrow(path.name, table, required, optional, str(path)), names=names)


def from_arrow(name: str, table: pa.Table, required: Sequence[str], optional: Sequence[str], file: str) -> Table:
    """The columns of an Arrow table, called `name` in messages about rows and `file` in those about columns."""
    check_columns(table.column_names, required, file)
    found = matched(table.column_names, (*required, *optional))
    twice = [column for column in found.values() if table.column_names.count(column) > 1]
    if twice:
        raise ValueError(f"{file} has several columns {twice[0]}")
    columns = {wanted: table[column].to_pylist() for wanted, column in found.items()}
    return Table(name, table.column_names, columns, len(table))


def _read_jsonl(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    lines, records = [], []
    for number, record in progress(json_lines(path), f"reading {path}"):
        lines.append(number)
        records.append(record)
    keys: set[str] = set().union(*records)
    check_columns(keys, required, str(path))
    found = matched(sorted(keys), (*required, *optional))
    columns = {wanted: [record.get(key) for record in records] for wanted, key in found.items()}
    return Table(path.name, sorted(keys), columns, len(records), lines)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank. ValueError for one that is not a JSON object."""
    with opened(path) as file:
        for number, line in numbered(file):
            yield number, json_line(line, f"{path}:{number}")


def _read_csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    cells = csv_rows(path)
    _, header = next(cells, (0, []))
    names = [(name or "").strip() for name in header]  # a spreadsheet's last columns may have none
    named = [name for name in names if name]
    check_columns(named, required, str(path))
    if len(set(named)) < len(named):
        raise ValueError(f"{path}:1: a column's name comes twice: {', '.join(named)}")
    places = {wanted: names.index(name) for wanted, name in matched(named, (*required, *optional)).items()}
    lines: list[int] = []
    columns: dict[str, list[Any]] = {wanted: [] for wanted in places}
    for number, row in progress(cells, f"reading {path}"):
        if len(row) < len(names) or any(row[len(names) :]):
            raise ValueError(f"{path}:{number}: {len(row)} cells, but the header has {len(names)}; is a quote missing?")
        lines.append(number)
        for wanted, place in places.items():
            columns[wanted].append(row[place])
    return Table(path.name, named, columns, len(lines), lines)


def matched(names: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """The wanted names that are there, each with the name as the file has it: the same, or one that differs in capitals
    or blanks around it alone, if no two do.
    """
    names = list(names)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.strip().casefold(), []).append(name)
    found = {name: [name] if name in names else alike.get(name.strip().casefold(), []) for name in wanted}
    return {name: each[0] for name, each in found.items() if len(each) == 1}


def check_columns(names: Iterable[str], required: Sequence[str], file: str) -> None:
    """Raise ValueError, naming the file, for required columns that are not among `names`."""
    names = [str(name) for name in names]
    missing = [name for name in required if name not in matched(names, required)]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(missing)} {it_has(names)}")


def it_has(names: Iterable[str]) -> str:
    """The columns that there are, for a message."""
    return f"(it has: {', '.join(sorted(names)) or 'none'})"


def check_text(table: Table, columns: Iterable[str]) -> Table:
    """The table, if the cells of these columns are texts or empty; ValueError, naming the place, if not."""
    for name in columns:
        for where, (cell,) in table.rows(name):
            if not (cell is None or isinstance(cell, str)):
                raise ValueError(f"{where}: {name} must be text, got {reprlib.repr(cell)}")
    return table
