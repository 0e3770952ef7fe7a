"""The texts of queries and documents by id: JSON lines as BEIR writes them, tables, or id-tab-text lines.

A .jsonl, .csv or .parquet file or a `datasets` directory has `_id` or `id`, and `text`, `title` or both. A .tsv file
has no header: id, text and perhaps title, as MS MARCO's collections do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from .dropped import Dropped
from .tables import csv_rows, json_lines, read_table

TextChoice = Literal["both", "title", "text", "none"]
IDS = ("_id", "id")
TEXTS = ("title", "text")


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


def read_texts(path: Path, what: str, wanted: Collection[str] | None, dropped: Dropped) -> dict[str, ItemText]:
    """Id to text, in file order, of the `wanted` ids or of all. `what`, such as "document", is for messages.

    An id that comes again is noted and left out, as is a row without id. Raises ValueError for a file that cannot be
    read, lacks a column, or holds anything but text.
    """
    found: dict[str, ItemText] = {}
    for where, number, title, text in tqdm(_rows(path), f"reading {path}", delay=3, leave=False, disable=None):
        for name, cell in (("title", title), ("text", text)):
            if not (cell is None or isinstance(cell, str)):
                raise ValueError(f"{where}: {name} must be text, got {cell!r}")
        item = str(number).strip() if number is not None else ""
        if not item:
            dropped.add(f"{what} without id", where, title or text)
        elif wanted is None or item in wanted:
            if item in found:
                dropped.add(f"{what} id again", where, item)
            else:
                found[item] = ItemText((title or "").strip() or None, (text or "").strip() or None, where)
    return found


def _rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """(place, id, title, text) of every row."""
    if path.suffix == ".jsonl" and path.is_file():
        yield from _json_rows(path)
    elif path.suffix == ".tsv" and path.is_file():
        for line, cells in csv_rows(path):
            if not 2 <= len(cells) <= 3:
                raise ValueError(f"{path}:{line}: expected id, text and perhaps title by tabs, got {len(cells)} cells")
            yield f"{path}:{line}", cells[0], cells[2] if len(cells) == 3 else None, cells[1]
    else:
        table = read_table(path, (), (*IDS, *TEXTS))
        yield from ((where, *cells) for where, cells in table.rows(_id_column(table.names, str(path)), *TEXTS))


def _json_rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """`_rows` of JSON lines, read one at a time: a corpus may be larger than the memory."""
    for line, record in json_lines(path):
        where = f"{path}:{line}"
        yield where, record[_id_column(record, where)], record.get("title"), record.get("text")


def _id_column(columns: Collection[str], where: str) -> str:
    """The name of the id column. ValueError where there is none, or neither a title nor a text beside it."""
    present = [name for name in IDS if name in columns]
    if not present or not {*TEXTS} & {*columns}:
        raise ValueError(f"{where} needs _id or id, and text or title (it has: {', '.join(sorted(columns)) or 'none'})")
    return present[0]
