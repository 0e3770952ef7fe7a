"""How much of the model's probability is on valid continuations, token by token of the top docID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stoical.metrics import Floats
from stoical.reporting.figure import FADED, plt, save
from stoical.reporting.intervals import FEW, intervals


def masses(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """[N, L] `valid_mass_by_step` of every query, NaN after the end of its top docID."""
    steps = [row["valid_mass_by_step"] for row in rows]
    padded = np.full((len(rows), max(map(len, steps))), np.nan)
    for line, own in zip(padded, steps, strict=True):
        line[: len(own)] = own
    return padded


def plot_valid_mass(rows: Sequence[Mapping[str, Any]], label: str, output: Path) -> None:
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
