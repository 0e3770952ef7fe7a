"""Metrics as markdown tables, in the paper's column order: CVR, nDCG, R@k, in per cent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Any]
TITLES = {
    "cvr": "CVR (↓)",
    "ndcg": "nDCG (↑)",
    "free_run_ndcg": "free-run nDCG (↑)",
    "invalid_rate": "invalid (↓)",
}
FREE_RUN_COLUMNS = ("free_run_ndcg", "invalid_rate")


def metrics_table(rows: Sequence[tuple[str, Metrics]]) -> str:
    """One row a (name, metrics); a metric that a row lacks is an en dash."""
    names = metric_names(name for _, metrics in rows for name in metrics)
    body = [
        [name, *(percent(metrics.get(column)) for column in names), str(metrics["num_queries"])]
        for name, metrics in rows
    ]
    return markdown([header(names), *body])


def metric_names(found: Iterable[str]) -> list[str]:
    """Those of `found` that the paper's tables have as columns, in its order."""
    names = set(found)
    cutoffs = sorted((name for name in names if name.startswith("recall@")), key=lambda name: int(name.split("@")[1]))
    return [name for name in ("cvr", "ndcg") if name in names] + cutoffs


def with_free_run(found: Iterable[str]) -> list[str]:
    """The paper's columns, and after them those of what the model writes by itself."""
    names = set(found)
    return metric_names(names) + [name for name in FREE_RUN_COLUMNS if name in names]


def title(name: str) -> str:
    """A metric's name as the paper writes it, with the arrow of what is better."""
    return TITLES.get(name, name.replace("recall@", "R@") + " (↑)")


def header(names: Sequence[str]) -> list[str]:
    """The first row of a table with these metrics."""
    return ["", *map(title, names), "queries"]


def percent(value: float | None) -> str:
    """A fraction in per cent; an en dash for None."""
    return "–" if value is None else f"{100 * value:.2f}"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A markdown table, padded so that it reads as plain text; the first row is the header."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for name, *values in cells:
        padded = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("| " + " | ".join([name.ljust(widths[0]), *padded]) + " |")
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
