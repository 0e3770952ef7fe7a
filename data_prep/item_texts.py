"""The texts of queries and documents by id: JSON lines as BEIR writes them, tables, or id-tab-text lines.

A .jsonl, .csv or .parquet file or a `datasets` directory has `_id` or `id`, and `text`, `title` or both, or columns
that options name. A .tsv file without such a header holds id, text and perhaps title, as MS MARCO's collections do.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stoical.common.ids import as_id
from stoical.common.progress import progress
from stoical.common.text_files import kind

from .columns import Column
from .dropped import Dropped
from .separated import csv_rows
from .tables import it_has, json_lines, matched, read_table

TextChoice = Literal["both", "title", "text", "none"]


@dataclass(frozen=True)
class TextColumns:
    """What the columns of ids, titles and texts are called. `given`: those of title and text that the user named."""

    id: Column
    title: Column
    text: Column
    given: tuple[Column, ...] = ()

    @classmethod
    def of(cls, id: str = "", title: str = "", text: str = "") -> TextColumns:
        """Of the values of the three options. A given title or text goes before the usual one."""
        own = {"title": Column.of("title_column", title, ()), "text": Column.of("text_column", text, ())}
        both = {key: Column(column.option, (*column.names, key)) for key, column in own.items()}
        return cls(Column.of("id_column", id, ("_id", "id")), **both, given=tuple(c for c in own.values() if c.names))

    @property
    def names(self) -> list[str]:
        """All names that are looked for."""
        return [*self.id.names, *self.title.names, *self.text.names]

    def find(self, names: Collection[str], where: str) -> list[str]:
        """The names of the three columns among these, "" for a missing title or text.

        Raises ValueError where there is no id, or neither a title nor a text.
        """
        number, *texts = (column.find(names) for column in (self.id, self.title, self.text))
        if number is None or not any(texts):
            text = " or ".join((*self.text.names, *self.title.names))
            raise ValueError(
                f"{where} needs {' or '.join(self.id.names)}, and {text} {it_has(names)}; "
                "id_column=, text_column= and title_column= name others"
            )
        return [number, *(name or "" for name in texts)]

    def check_given(self, names: Collection[str], where: str) -> None:
        """Raise ValueError where none of the names that an option gives is there."""
        for column in self.given:
            if column.find(names) is None:
                given = ",".join(column.names)
                raise ValueError(f"{where} has no column for {column.option}={given} {it_has(names)}")


@dataclass(frozen=True, slots=True)
class ItemText:
    """What is known of a query or document, and where it stands."""

    title: str | None
    text: str | None
    where: str

    def chosen(self, choice: TextChoice) -> str | None:
        """The title, the text, or the title followed by the text (`both`, as BEIR's models read it)."""
        parts = {"both": [self.title, self.text], "title": [self.title], "text": [self.text], "none": []}[choice]
        return " ".join(part for part in parts if part) or None


def read_texts(
    path: Path,
    what: str,
    wanted: Collection[str] | None,
    dropped: Dropped,
    columns: TextColumns | None = None,
) -> dict[str, ItemText]:
    """Id to text, in file order, of the `wanted` ids or of all. `what`, such as "document", is for messages.

    An id that comes again is noted and left out, as is a row without id. Raises ValueError for a file that cannot be
    read, lacks a column, holds anything but text, or has none of the wanted ids.
    """
    found: dict[str, ItemText] = {}
    other = None
    rows = _rows(path, columns or TextColumns.of(), strict=what != "query")
    for where, number, title, text in progress(rows, f"reading {path}"):
        for name, cell in (("title", title), ("text", text)):
            if not (cell is None or isinstance(cell, str)):
                raise ValueError(f"{where}: {name} must be text, got {reprlib.repr(cell)}")
        item = as_id(number, where, "id")
        if item is None:
            dropped.add(f"{what} without id", where, title or text)
        elif wanted is None or item in wanted:
            if item in found:
                dropped.add(f"{what} id again", where, item)
            else:
                found[item] = ItemText((title or "").strip() or None, (text or "").strip() or None, where)
        else:
            other = other or item
    if wanted and other and not found:
        raise ValueError(
            f"{path}: none of its ids, such as {other!r}, is a {what}'s that is asked for, such as {min(wanted)!r}"
        )
    return found


def _rows(path: Path, columns: TextColumns, strict: bool) -> Iterator[tuple[str, Any, Any, Any]]:
    """(place, id, title, text) of every row. strict: a column that an option names must be there.

    Queries often have no title where documents have one: for them it need not be.
    """
    if kind(path) == ".jsonl" and path.is_file():
        yield from _json_rows(path, columns, strict)
    elif kind(path) == ".tsv" and path.is_file() and not _has_header(path, columns, strict):
        for line, cells in csv_rows(path):
            if not 2 <= len(cells) <= 3:
                raise ValueError(f"{path}:{line}: expected id, text and perhaps title by tabs, got {len(cells)} cells")
            yield f"{path}:{line}", cells[0], cells[2] if len(cells) == 3 else None, cells[1]
    else:
        table = read_table(path, (), columns.names)
        names = columns.find(table.names, str(path))
        if strict:
            columns.check_given(table.names, str(path))
        yield from ((where, *cells) for where, cells in table.rows(*names))


def _has_header(path: Path, columns: TextColumns, strict: bool) -> bool:
    """True where the first line of a .tsv file names columns; with `strict`, also where options do."""
    _, first = next(csv_rows(path), (0, []))
    names = [cell for cell in first if cell]
    asked = strict and (columns.given or columns.id.names != TextColumns.of().id.names)
    text = columns.title.find(names) or columns.text.find(names)
    return bool(asked or (columns.id.find(names) and text))


def _json_rows(path: Path, columns: TextColumns, strict: bool) -> Iterator[tuple[str, Any, Any, Any]]:
    """`_rows` of JSON lines, read one at a time: a corpus may be larger than the memory. All have the first's id."""
    found: dict[tuple[str, ...], list[str | None]] = {}  # the keys of a line -> those of id, title and text
    for line, record in json_lines(path):
        keys = tuple(record)
        if keys not in found:
            own = matched(keys, columns.names)
            found[keys] = [own.get(name) for name in columns.find(keys, f"{path}:{line}")]
            first = next(iter(found.values()))[0]
            if found[keys][0] != first:
                raise ValueError(f"{path}:{line} has no {first}, which the lines before it have {it_has(keys)}")
        item, title, text = (None if key is None else record[key] for key in found[keys])
        yield f"{path}:{line}", item, title, text
    if strict and found:
        columns.check_given({key for keys in found for key in keys}, str(path))
