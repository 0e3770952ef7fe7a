"""The figures of one evaluation: metrics, score by rank, nDCG by length, valid mass by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.evaluation.intervals import FEW, intervals
from stoical.evaluation.metrics import metrics_among
from stoical.evaluation.result import QueryResult
from stoical.reporting.figure import FADED, error_bars, plt, save
from stoical.reporting.tables import score_unit

MAX_ROWS = 40  # labels of more would overlap
WIDE = 12  # letters of a label that takes several lines


def plot_metrics(metrics: Mapping[str, Any], name: str, output: Path) -> None:
    """The metrics in per cent, out of what metrics.json holds, and those of a random order, written to `output`."""
    shown = metrics_among(metrics, "tables")
    values = 100 * np.array([metrics[metric.name] for metric in shown])
    ranges = 100 * np.array([metrics["intervals"][metric.name] for metric in shown])
    figure, axis = plt.subplots(figsize=(1.6 + 0.75 * len(shown), 3.4), layout="constrained")
    colors = ["tab:red" if metric.better == "lower" else "tab:blue" for metric in shown]
    axis.bar(range(len(shown)), values, color=colors, alpha=0.8)
    axis.errorbar(range(len(shown)), values, error_bars(values, ranges), fmt="none", ecolor="black", capsize=4)
    for place, (value, high) in enumerate(zip(values, ranges[:, 1], strict=True)):
        axis.text(place, max(value, high) + 1.5, f"{value:.1f}", ha="center", fontsize=9)
    random = (metrics.get("references") or {}).get("random order", {})
    marks = [100 * random.get(metric.name, np.nan) for metric in shown]
    if random:
        places = np.arange(len(shown))
        axis.hlines(marks, places - 0.45, places + 0.45, color="black", linestyle=":", label="random order")
        figure.legend(fontsize=8, frameon=False, loc="outside lower right")
    columns = [metric.column if len(metric.column) < WIDE else metric.column.replace(" ", "\n") for metric in shown]
    axis.set_xticks(range(len(shown)), columns)
    low = min(0.0, float(ranges.min()) - 5)
    axis.set(ylabel="%", yticks=range(20 * int(low // 20), 101, 20), ylim=(low, 110))
    axis.set_title(f"{name}: {metrics['num_queries']} queries, mode {metrics['mode']}", fontsize=10)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    save(figure, output)


def by_group(values: Floats, groups: Ints) -> tuple[Ints, Ints, Floats, Floats]:
    """Groups [G] ascending, queries of each [G], means of `values` [N] in each [G], and their 95% intervals [G, 2].

    NaN for the interval of a group of few queries.
    """
    found, counts = np.unique(groups, return_counts=True)
    parts = [values[groups == group] for group in found]
    means = np.array([part.mean() for part in parts])
    ranges = np.concatenate([intervals(part[:, None]) for part in parts])
    ranges[counts < FEW] = np.nan
    return found, counts, means, ranges


def plot_ndcg_breakdown(rows: Sequence[QueryResult], label: str, output: Path) -> None:
    """Two panels of nDCG in per cent with intervals, and below them the number of queries, written to `output`.

    The list's length leaves negatives out; a docID's tokens are those that its score counts. Where several share the
    first rank, their mean counts (`QueryResult.top_tokens`), as in `plot_valid_mass`.
    """
    values = 100 * np.array([row.metrics["ndcg"] for row in rows])
    panels = {
        "documents in the list": np.array([row.num_listed for row in rows]),
        "tokens of the top docID": np.array([row.top_tokens for row in rows]),
    }
    figure, axes = plt.subplots(2, 2, figsize=(9, 4.2), sharex="col", height_ratios=[3, 1], layout="constrained")
    axes[0, 1].sharey(axes[0, 0])
    for (above, below), (what, groups) in zip(axes.T, panels.items(), strict=True):
        found, counts, means, ranges = by_group(values, groups)
        above.errorbar(found, means, error_bars(means, ranges), fmt="o", markersize=4, capsize=3)
        above.grid(alpha=0.3)
        below.bar(found, counts, color=FADED)
        below.set(xlabel=what)
        below.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set(ylabel="nDCG (%)")
    axes[1, 0].set(ylabel="queries")
    figure.suptitle(label, fontsize=10)
    save(figure, output)


def masses(rows: Sequence[QueryResult]) -> Floats:
    """[N, L] `valid_mass_by_step` of every query, NaN after the end of its top docID."""
    steps = [row.valid_mass_by_step or [] for row in rows]
    padded = np.full((len(rows), max(map(len, steps))), np.nan)
    for line, own in zip(padded, steps, strict=True):
        line[: len(own)] = own
    return padded


def plot_valid_mass(rows: Sequence[QueryResult], label: str, output: Path) -> None:
    """Mean valid mass by step with its 95% interval, and the number of queries that have the step, to `output`."""
    values = masses(rows)
    steps = np.arange(1, values.shape[1] + 1)
    counts = (~np.isnan(values)).sum(axis=0)
    means, ranges = np.nanmean(values, axis=0), intervals(values)
    ranges[counts < FEW] = np.nan
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5, 4.2), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    above.plot(steps, 100 * means, marker="o", markersize=4)
    above.fill_between(steps, *(100 * ranges.T), alpha=0.25)
    above.set(ylabel="probability on valid tokens (%)", ylim=(0, 103))
    above.grid(alpha=0.3)
    below.bar(steps, counts, color=FADED)
    below.set(xlabel="token of the top docID", ylabel="queries")
    below.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(label, fontsize=10)
    save(figure, output)


def mean_scores(rows: Sequence[QueryResult]) -> tuple[Ints, Ints, Floats]:
    """Lengths [G] of the lists there are, queries of each [G], and mean scores [G, R + 1] by rank from 1.

    R is the largest rank; the last column is the negatives'. NaN where there are no documents.
    """
    sizes = np.array([row.num_listed for row in rows])
    lengths, counts = np.unique(sizes, return_counts=True)
    sums = np.zeros((len(lengths), int(lengths.max()) + 1))
    seen = np.zeros_like(sums)
    for row, size in zip(rows, sizes, strict=True):
        place = np.searchsorted(lengths, size)
        column = np.array(row.ranks) - 1
        column[size:] = -1
        np.add.at(sums[place], column, row.scores)
        np.add.at(seen[place], column, 1)
    with np.errstate(invalid="ignore"):
        return lengths, counts, sums / seen


def plot_rank_map(rows: Sequence[QueryResult], label: str, output: Path) -> None:
    """A heat map of `mean_scores`, to `output`; `label` names the scores. A column apart shows the negatives."""
    lengths, counts, means = mean_scores(rows)
    ranks = means.shape[1] - 1
    apart = np.insert(means, ranks, np.nan, axis=1)  # an empty column before the negatives
    has_negatives = not np.isnan(means[:, -1]).all()
    shown = apart if has_negatives else means[:, :ranks]
    figure, axis = plt.subplots(
        figsize=(min(3 + 0.35 * shown.shape[1], 12), min(1.8 + 0.3 * len(lengths), 9)), layout="constrained"
    )
    image = axis.imshow(shown, aspect="auto", interpolation="nearest", cmap="viridis")
    step = -(-ranks // 20)
    ticks = [*range(0, ranks, step), *([ranks + 1] if has_negatives else [])]
    axis.set_xticks(ticks, ["neg." if tick > ranks else str(tick + 1) for tick in ticks])
    every = -(-len(lengths) // MAX_ROWS)
    named = [f"{length}  ({count})" for length, count in zip(lengths, counts, strict=True)]
    axis.set_yticks(range(0, len(lengths), every), named[::every])
    axis.set(xlabel="gold rank", ylabel="documents in the list  (queries)")
    axis.set_title(label, fontsize=10)
    unit = score_unit(rows[0].mode)
    figure.colorbar(image, ax=axis, label=f"mean score ({unit})" if unit else "mean score")
    save(figure, output)
