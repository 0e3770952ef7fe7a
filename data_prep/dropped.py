"""A record of every row that an importer leaves out: nothing is lost unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stoical.common.lazy import pa

SHOWN = 5


@dataclass
class Dropped:
    """Every row that was left out: why, where it stands, and what it says."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, reason: str, where: str, text: object) -> None:
        """Note a row: why it is left out, where it stands and what it says."""
        self.rows.append((reason, where, str(text)))

    def summary(self) -> dict[str, Any]:
        """Reason -> how many rows, and where the first few of them stand."""
        counts = Counter(reason for reason, _, _ in self.rows)
        first: dict[str, list[str]] = {}
        for reason, where, text in self.rows:
            if len(shown := first.setdefault(reason, [])) < SHOWN:
                shown.append(f"{where}: {text}")
        return {reason: {"rows": count, "first": first[reason]} for reason, count in counts.items()}

    def to_arrow(self) -> pa.Table:
        """Every row that was left out, as a table of reason, where and text."""
        columns = list(zip(*self.rows, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, pa.string()) for column in columns]
        return pa.table(arrays, names=["reason", "where", "text"])


@contextmanager
def listed_on_error(dropped: Dropped) -> Iterator[None]:
    """Print what was left out where a `ValueError` is raised for the little that is left."""
    try:
        yield
    except ValueError:
        print_dropped(dropped.summary())
        raise


def print_dropped(summary: dict[str, Any]) -> None:
    """A line for each reason of a `Dropped.summary`."""
    for reason, rows in summary.items():
        print(f"  left out: {rows['rows']:,} x {reason}, such as {rows['first'][0]}")
