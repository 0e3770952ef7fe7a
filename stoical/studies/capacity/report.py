"""report.md: the study's tables, out of its cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from stoical.common.files import write_whole
from stoical.reporting.tables import markdown
from stoical.studies.capacity import figures
from stoical.studies.capacity.counts import (
    TOP_LISTS,
    Similarity,
    distance_orders,
    dot_orders,
    exact_dimension,
    list_dimension,
    orders,
    paper_bound,
)
from stoical.studies.capacity.limit import RELEVANT, exact_critical_n, published_curve
from stoical.studies.capacity.study import Row

REPORT = "report.md"
THRESHOLDS = (3, 4, 5, 6, 7, 8, 10, 20, 50, 100, 1_000)  # documents


def write_report(rows: Sequence[Row], output: Path) -> str:
    """Write report.md and the figures of what there is; the text of the report, to print."""
    figures.write_figures(rows, output)
    text = report(rows)
    write_whole(output / REPORT, text)
    return text


def report(rows: Sequence[Row]) -> str:
    """The tables of what there is, and how long they took."""
    sections = {
        "Dimensions for all orders": thresholds(),
        "Orders that free embeddings have right": ceilings(_of(rows, "ceilings")),
        "Ordered top lists, exactly": lists(_of(rows, "lists")),
        "A small autoregressive ranker": ranker(_of(rows, "ranker")),
        "LIMIT's critical n": critical(_of(rows, "limit")),
        "The output layer": output_layers(_of(rows, "output")),
    }
    seconds = sum(row["seconds"] for row in rows)
    tables = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections.items() if table)
    return f"# Capacity, exact\n\n{tables}\n\n{len(rows)} cells, {seconds / 60:.1f} minutes of processor time.\n"


def _of(rows: Iterable[Row], part: str) -> list[Row]:
    return [row for row in rows if row["part"] == part]


def thresholds() -> str:
    """Documents, the paper's bound, the exact dimension for both similarities, and that of top-2 and top-5 lists."""
    tops = [f"top {length}" for length in TOP_LISTS]
    cells = [["documents", "Theorem 3.1 excludes n <", "exact, dot", "exact, distance", *tops]]
    for k in THRESHOLDS:
        exact = [f"{exact_dimension(k, similarity):,}" for similarity in get_args(Similarity)]
        tops = [f"{list_dimension(length, k):,}" for length in TOP_LISTS]
        cells.append([f"{k:,}", f"{paper_bound(k):.2f}", *exact, *tops])
    return markdown(cells)


def ceilings(rows: Sequence[Row]) -> str:
    """For every (similarity, k, n): the exact count, within reach of the trained documents, and trained; by seeds."""
    cells = [["similarity, k", "n", "of k!", "exact", "within reach", "trained, all seeds", "equal"]]
    for (similarity, k, n), group in _grouped(rows, "similarity", "documents", "dimensions"):
        exact = orders(k, n, similarity)
        reached, trained = [row["within_reach"] for row in group], [row["trained"] for row in group]
        equal = f"{sum(each == exact for each in reached)}, {sum(each == exact for each in trained)} of {len(group)}"
        numbers = (n, math.factorial(k), exact)
        cells.append(
            [f"{similarity}, {k}", *(f"{each:,}" for each in numbers), _range(reached), _range(trained), equal]
        )
    return markdown(cells) if rows else ""


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _grouped(rows: Sequence[Row], *keys: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """The rows that agree in some keys, by their values, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from groups.items()


def lists(rows: Sequence[Row]) -> str:
    """How many of the ordered lists a query of 2 r dimensions makes, in rational arithmetic."""
    cells = [["documents m", "list r", "dimensions", "all lists", "made", "narrowest margin"]]
    for row in rows:
        whole = [f"{row[key]:,}" for key in ("documents", "length", "dimensions", "lists", "made")]
        cells.append([*whole, f"{row['margin']:.1e}"])
    return markdown(cells) if rows else ""


def ranker(rows: Sequence[Row]) -> str:
    """What the ranker has right beside the most that a dual encoder of its hidden size can have."""
    cells = [["documents k", "hidden", "of k!", "ranker", "steps", "dual encoder at most, dot", "distance"]]
    for row in rows:
        k, n = row["documents"], row["hidden"]
        counts = (n, math.factorial(k), row["right"], row["steps"], dot_orders(k, n), distance_orders(k, n))
        cells.append([str(k), *(f"{each:,}" for each in counts)])
    return markdown(cells) if rows else ""


def critical(rows: Sequence[Row]) -> str:
    """Critical n by dimension: ours by seed, and LIMIT's fitted curve."""
    cells = [["dimensions d", "critical n, by seed", "LIMIT's curve", "exact"]]
    for (d,), group in _grouped(rows, "dimensions"):
        curve, exact = published_curve(d), exact_critical_n(d)
        published = f"{curve:.1f}" if curve > RELEVANT else "–"
        found = ", ".join(str(row["critical_n"]) for row in group)
        cells.append([str(d), found, published, "no limit" if exact is None else str(exact)])
    return markdown(cells) if rows else ""


def output_layers(rows: Sequence[Row]) -> str:
    """rank(E') of random layers, the orders at one token, the contradiction of Prop. 3.1, and orders over a trie."""
    titles = ["hidden n", "rank(E')", "orders of V tokens", "T(V, n)", "contradiction possible"]
    cells = [[*titles, "trie: rank(E')", "orders of k docIDs"]]
    for (n,), group in _grouped(rows, "hidden"):
        v, k = group[0]["tokens"], group[0]["docids"]
        either = {row["either_possible"] for row in group}
        cells.append(
            [
                str(n),
                f"{_range([row['rank'] for row in group])} of {v}",
                f"{_range([row['orders'] for row in group])} of {math.factorial(v):,}",
                f"{dot_orders(v, n):,}",
                {True: "yes", False: "no", None: "there is none"}[next(iter(either))] if len(either) == 1 else "mixed",
                f"{_range([row['trie_rank'] for row in group])} of {group[0]['trie_tokens']}",
                f"{_range([row['trie_orders'] for row in group])} of {math.factorial(k):,}",
            ]
        )
    return markdown(cells) if rows else ""
