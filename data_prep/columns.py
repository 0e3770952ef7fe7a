"""Columns by what they hold: found by usual names, or by those that the user gives.

An option such as `query_column=` names a column; several names, parted by commas, are tried in order, since the files
of a data set may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .tables import Table, it_has, matched, read_table


@dataclass(frozen=True)
class Column:
    """What a column may be called, the first of these that a file has, and the option that names it."""

    option: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, option: str, given: str, usual: Sequence[str]) -> Column:
        """The column of the names that are given, else of the usual ones."""
        return cls(option, split_names(given) or tuple(usual))

    def find(self, names: Iterable[str]) -> str | None:
        """The first of its names that is among these."""
        found = matched(names, self.names)
        return next((name for name in self.names if name in found), None)


def split_names(given: str) -> tuple[str, ...]:
    """The names in the value of an option."""
    return tuple(name.strip() for name in given.split(",") if name.strip())


def read_columns(path: Path, columns: Mapping[str, Column]) -> Table:
    """A table whose columns are called as in `columns`. Raises as `read_table` and `chosen` do."""
    return chosen(read_any(path, columns.values()), path, columns)


def read_any(path: Path, columns: Iterable[Column]) -> Table:
    """The table of whatever these columns may be called."""
    return read_table(path, (), [name for column in columns for name in column.names])


def chosen(table: Table, path: Path, columns: Mapping[str, Column]) -> Table:
    """The table with its columns called as in `columns`. ValueError, with the options, for a lack; for no rows."""
    found = {key: column.find(table.columns) for key, column in columns.items()}
    missing = [key for key, name in found.items() if name is None]
    if missing:
        wanted = ", ".join(" or ".join(columns[key].names) for key in missing)
        options = " ".join(f"{columns[key].option}=NAME" for key in missing)
        raise ValueError(f"{path} has no column {wanted} {it_has(table.names)}; give {options}")
    if not len(table):
        raise ValueError(f"{path} holds no rows")
    return replace(table, columns={key: table.columns[str(name)] for key, name in found.items()})
