"""Metrics as markdown tables, in the paper's column order: CVR, nDCG, R@k, in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Metrics = Mapping[str, float | int]
TITLES = {"cvr": "CVR (↓)", "ndcg": "nDCG (↑)"}


def metrics_table(rows: Sequence[tuple[str, Metrics]]) -> str:
    """One row a (name, metrics); a metric that a row lacks is an en dash."""
    columns = [name for name in ("cvr", "ndcg") if any(name in metrics for _, metrics in rows)]
    cutoffs = {name for _, metrics in rows for name in metrics if name.startswith("recall@")}
    columns += sorted(cutoffs, key=lambda name: int(name.removeprefix("recall@")))
    titles = ["", *(TITLES.get(name, name.replace("recall@", "R@") + " (↑)") for name in columns), "queries"]
    body = [
        [name, *(_percent(metrics, column) for column in columns), str(metrics["num_queries"])]
        for name, metrics in rows
    ]
    return markdown([titles, *body])


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A markdown table, padded so that it reads as plain text; the first row is the header."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for name, *values in cells:
        padded = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("| " + " | ".join([name.ljust(widths[0]), *padded]) + " |")
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _percent(metrics: Metrics, name: str) -> str:
    return f"{100 * metrics[name]:.2f}" if name in metrics else "–"
