"""nDCG by how long a query's list is, and by how many tokens its top docID has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stoical.metrics import Floats, Ints
from stoical.reporting.figure import FADED, error_bars, plt, save
from stoical.reporting.intervals import FEW, intervals


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


def plot_ndcg_breakdown(rows: Sequence[Mapping[str, Any]], label: str, output: Path) -> None:
    """Two panels of nDCG in per cent with intervals, and below them the number of queries, written to `output`.

    The list's length leaves negatives out; a docID's tokens are those that its score counts.
    """
    values = 100 * np.array([row["ndcg"] for row in rows])
    panels = {
        "documents in the list": np.array([len(row["docids"]) - row["num_negatives"] for row in rows]),
        "tokens of the top docID": np.array([row["docid_tokens"][0] for row in rows]),
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
