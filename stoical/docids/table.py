"""The table of items: which item has which docID, and its text."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stoical.common.ids import as_id
from stoical.common.lazy import pa, pq

COLUMNS = ("item_id", "docid", "text")


@dataclass(frozen=True)
class DocIDTable:
    """Which item has which docID: parallel lists; item ids are distinct, docIDs need not be."""

    item_ids: list[str]
    docids: list[str]
    texts: list[str]

    @cached_property
    def docid_of(self) -> dict[str, str]:
        """From item id to docID."""
        return dict(zip(self.item_ids, self.docids, strict=True))

    @cached_property
    def text_of(self) -> dict[str, str]:
        """From item id to text."""
        return dict(zip(self.item_ids, self.texts, strict=True))

    @cached_property
    def items_of(self) -> dict[str, list[str]]:
        """From docID to item ids, in order."""
        found: dict[str, list[str]] = {}
        for item, docid in zip(self.item_ids, self.docids, strict=True):
            found.setdefault(docid, []).append(item)
        return found

    def to_arrow(self) -> pa.Table:
        """The table as `save` writes it: columns item_id, docid and text."""
        return pa.table({"item_id": self.item_ids, "docid": self.docids, "text": self.texts})

    def save(self, path: str | Path) -> None:
        """Write a parquet file."""
        pq.write_table(self.to_arrow(), path, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> DocIDTable:
        """Read what `save` wrote. ValueError for a file that does not hold such a table, or names an item twice."""
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            message = f"there is no docID table {path}; stoical prepare docids writes one (items.parquet)"
            raise ValueError(message) from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a readable parquet file: {error}") from None
        missing = {*COLUMNS} - set(table.column_names)
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}; a docID table has {', '.join(COLUMNS)}"
            )
        found = cls([], [], [])
        first: dict[str, int] = {}
        for row, cells in enumerate(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)):
            item, docid, text = _checked(cells, f"{path}[{row}]")
            if first.setdefault(item, row) != row:
                raise ValueError(f"{path}[{row}]: item {item!r} was there before, at {path}[{first[item]}]")
            found.item_ids.append(item)
            found.docids.append(docid)
            found.texts.append(text)
        return found


def _checked(cells: Sequence[Any], where: str) -> tuple[str, str, str]:
    """Item id, docID and text of a row; ids and docIDs may be numbers. ValueError for a row without id or docID."""
    item, docid, text = cells
    item_id = as_id(item, where, "item_id")
    if item_id is None:
        raise ValueError(f"{where}: item_id is empty")
    written = docid if isinstance(docid, str) else as_id(docid, f"{where}: item {item_id!r}", "docid")
    if written is None or not written.strip():
        raise ValueError(f"{where}: item {item_id!r} has no docID: give it one, or leave the item out of the table")
    if not (text is None or isinstance(text, str)):
        raise ValueError(f"{where}: item {item_id!r}: text must be text, got {reprlib.repr(text)}")
    return item_id, written, text or ""
