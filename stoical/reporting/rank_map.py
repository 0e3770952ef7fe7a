"""Where the score goes: the mean score of each gold rank, by the length of the list, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stoical.metrics import Floats, Ints
from stoical.reporting.figure import plt, save

MAX_ROWS = 40  # labels of more would overlap


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> tuple[Ints, Ints, Floats]:
    """Lengths [G] of the lists there are, queries of each [G], and mean scores [G, R + 1] by rank from 1.

    R is the largest rank; the last column is the negatives'. NaN where there is no document.
    """
    sizes = np.array([len(row["docids"]) - row["num_negatives"] for row in rows])
    lengths, counts = np.unique(sizes, return_counts=True)
    sums = np.zeros((len(lengths), int(lengths.max()) + 1))
    seen = np.zeros_like(sums)
    for row, size in zip(rows, sizes, strict=True):
        place = np.searchsorted(lengths, size)
        column = np.array(row["ranks"]) - 1
        column[size:] = -1
        np.add.at(sums[place], column, row["scores"])
        np.add.at(seen[place], column, 1)
    with np.errstate(invalid="ignore"):
        return lengths, counts, sums / seen


def plot_rank_map(rows: Sequence[Mapping[str, Any]], label: str, output: Path) -> None:
    """The heat map, written to `output`; `label` says what the scores are. A column apart shows the negatives."""
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
    figure.colorbar(image, ax=axis, label="mean score (nats)")
    save(figure, output)
