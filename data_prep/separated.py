"""Rows of cells in .csv and .tsv files.

What parts the cells of a .csv file, a comma, semicolon, tab or bar, is told from its header; a cell in double quotes
may hold it. A .tsv file has tabs. Its quotes are text, as in MS MARCO's files, unless its first line begins with one or
all of them are as csv writers put them, pandas' among these: around cells that hold a quote, which is then doubled.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from stoical.common.text_files import kind, opened

SEPARATORS = ",;\t|"  # of equals, the first
QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"')
ROW = re.compile(rf'(?:[^"\t]*|{QUOTED.pattern})(?:\t(?:[^"\t]*|{QUOTED.pattern}))*')
OPEN = re.compile(rf'(?:(?:[^"\t]*|{QUOTED.pattern})\t)*"[^"]*(?:""[^"]*)*')  # a line that ends within a quoted cell
LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072


def csv_rows(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """(first line, cells) of every row of a .csv or .tsv file, the header included; empty cells are None.

    Line ends within cells are those of Unix.
    Rows without anything in a cell are passed over. Raises `ValueError`, with the line, for a file that is not so.
    """
    csv.field_size_limit(LONGEST_CELL)
    with opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        line = 1
        try:
            before, first, separator = _start(text)
            lines = chain(before, [first], text)
            if kind(path) != ".tsv":
                reader = csv.reader(lines, delimiter=separator, strict=True)
            elif first.startswith('"') or _quotes_cells(path):
                reader = csv.reader(lines, delimiter="\t", strict=True)
            else:
                reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
            for row in reader:
                if any(row):
                    yield line, [cell.replace("\r\n", "\n") or None for cell in row]
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}:{line}: {error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8, after line {line}: {error}") from None


def _start(text: io.TextIOWrapper) -> tuple[list[str], str, str]:
    """The lines before the first row, which are blank, its first line, and what parts its cells.

    A spreadsheet may say it on a line of its own, `sep=;`.
    """
    before: list[str] = []
    while (line := text.readline()) and not line.strip():
        before.append(line)
    said = line.strip("\r\n")
    if len(said) == 5 and said.lower().startswith("sep="):
        return [*before, "\n"], text.readline(), said[4]
    cells = {separator: len(next(csv.reader([line], delimiter=separator), [])) for separator in SEPARATORS}
    return before, line, max(SEPARATORS, key=lambda separator: cells[separator])


def _quotes_cells(path: Path) -> bool:
    """True where all quotes of a .tsv file are a csv writer's, and some cell needs them for what it holds."""
    needed, row = False, list[str]()
    with opened(path) as file:
        for line in io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""):
            odd = line.count('"') % 2 == 1
            if not row and '"' not in line:
                continue
            row.append(line)
            if odd == (len(row) == 1):  # a cell goes on in the next line
                if odd and not OPEN.fullmatch(line):
                    return False
                continue
            whole, row = "".join(row), []
            if not ROW.fullmatch(whole.rstrip("\r\n")):
                return False
            needed = needed or any(set(cell[1:-1]) & set('"\t\n') for cell in QUOTED.findall(whole))
    return needed and not row
