"""Metrics as markdown tables, in per cent, with the columns of `metrics.METRICS` in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from stoical.decoding.choices import Mode
from stoical.evaluation.metrics import Metric, metrics_among


def metrics_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """One row a (name, metrics), and the reference rows of the first; a metric that a row lacks is an en dash."""
    columns = metrics_among((name for _, metrics in rows for name in metrics), "tables")
    body = [
        [name, *(percent(metrics.get(column.name)) for column in columns), str(metrics["num_queries"])]
        for name, metrics in rows
    ]
    body += [[*cells, ""] for cells in reference_cells(rows[0][1], columns)]
    return markdown([header(columns, data_label([metrics for _, metrics in rows])), *body])


def reference_cells(metrics: Mapping[str, Any], columns: Sequence[Metric]) -> list[list[str]]:
    """Name and values, by column, of the rows that metrics.json has for orders that no model made."""
    references: Mapping[str, Mapping[str, float]] = metrics.get("references") or {}
    return [[name, *(percent(own.get(column.name)) for column in columns)] for name, own in references.items()]


def meaning(metrics: Mapping[str, Any]) -> list[str]:
    """Lines on what metrics.json cannot be read without: how high nDCG is for any order, and negatives with a grade."""
    random = (metrics.get("references") or {}).get("random order", {}).get("ndcg")
    said = []
    if random is not None:
        said.append(f"nDCG has the paper's logarithmic gains: a random order of these lists has {percent(random)}.")
    if metrics.get("relevant_negatives"):
        above = metrics.get("relevant_above", 0)
        said.append(
            f"{metrics['relevant_negatives']:,} negatives count as relevant, as their grades are above "
            f"eval.relevant_above={above:g}: data imported with another relevant_above= need the same here."
        )
    return said


def data_label(found: Sequence[Mapping[str, Any]]) -> str:
    """The data that evaluations were made on, where metrics.json of all of them names the same; else nothing."""
    named = [metrics.get("data") for metrics in found]
    return f"{named[0]['name']}/{named[0]['split']}" if named[0] and named.count(named[0]) == len(named) else ""


def header(columns: Sequence[Metric], data: str = "") -> list[str]:
    """The first row of a table with these metrics, on this data."""
    return [data, *(metric.column for metric in columns), "queries"]


def score_unit(mode: str) -> str:
    """The unit of scores: nats of a language model's log-probabilities, none of an encoder's scores."""
    return "nats" if mode in get_args(Mode) else ""


def percent(value: float | None) -> str:
    """A fraction in per cent; an en dash for None."""
    return "–" if value is None else f"{100 * value:.2f}"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A markdown table, padded so that it reads as plain text; the first row is the header.

    Names may hold what would end a cell or a line.
    """
    cells = [[" ".join(text.replace("|", "\\|").splitlines()) for text in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for name, *values in cells:
        padded = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("| " + " | ".join([name.ljust(widths[0]), *padded]) + " |")
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
