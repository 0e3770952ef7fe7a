"""Ids as text: one id however a file writes it."""

from __future__ import annotations

import reprlib
from decimal import Decimal
from typing import Any


def as_id(cell: Any, where: str, what: str) -> str | None:
    """The id in a cell: text with runs of blanks made one and none at the ends, a number's digits; None if empty.

    So 7, "7", " 7 " and the 7.0 of a column of numbers with gaps are one id; "7.0", as text, is another. Raises
    `ValueError`, which `where` opens, for anything but text in UTF-8 and numbers.
    """
    if isinstance(cell, bytes):  # binary strings, as some writers of parquet leave them
        try:
            cell = cell.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: {what} is not UTF-8: {error}") from None
    if cell is None or (isinstance(cell, float) and cell != cell):  # NaN is a gap in a column of numbers
        return None
    if isinstance(cell, bool) or not isinstance(cell, str | int | float | Decimal):
        raise ValueError(f"{where}: {what} must be text or a number, got {reprlib.repr(cell)}")
    if isinstance(cell, float | Decimal) and cell == cell // 1:
        cell = int(cell)
    return " ".join(str(cell).split()) or None
