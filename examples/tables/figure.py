"""Appendix C's figure: Table 1 as curves, a panel a family of losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.tables.claims import ALPHAS, BETAS, NTP, STEPWISE, Results
from examples.tables.rows import TABLE_1
from stoical.reporting.figure import plt, save
from stoical.reporting.recall_curves import MARKERS

FAMILIES = {
    "item weights, one-hot targets": [NTP, *ALPHAS, STEPWISE],
    "top docID, trie targets": [NTP, *BETAS],
}
BY_ROW = {"cvr": "CVR (%, lower is better)", "ndcg": "nDCG (%)"}


def plot_table(results: Results, seeds: int, output: Path) -> None:
    """R@k over k by family, and CVR and nDCG by row; means over seeds, bars from the least to the most."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    axes[0][1].sharey(axes[0][0])
    for axis, (title, names) in zip(axes[0], FAMILIES.items(), strict=True):
        _recalls(axis, title, names, results)
    for axis, (metric, title) in zip(axes[1], BY_ROW.items(), strict=True):
        _bars(axis, metric, title, results)
    count = f"{seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"Table 1 in miniature: mammals of WordNet, 1M parameters, {count}")
    save(figure, output)


def _recalls(axis: plt.Axes, title: str, names: Sequence[str], results: Results) -> None:
    ks = range(1, 6)
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(names)))
    for place, (name, shade) in enumerate(zip(names, shades, strict=True)):
        runs = np.array([[100 * run[f"recall@{k}"] for k in ks] for run in results[name]])
        color, style = ("black", "--") if name == NTP else (shade, ":" if name == STEPWISE else "-")
        form = {"marker": MARKERS[place], "markersize": 4, "label": TABLE_1[name].title}
        axis.plot(ks, runs.mean(axis=0), style, color=color, **form)
    axis.set(xlabel="k", ylabel="R@k (%)", title=title, xticks=list(ks))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _bars(axis: plt.Axes, metric: str, title: str, results: Results) -> None:
    names = list(TABLE_1)
    runs = np.array([[100 * run[metric] for run in results[name]] for name in names])
    means = runs.mean(axis=1)
    reach = abs(np.array([runs.min(axis=1), runs.max(axis=1)]) - means)
    places = np.arange(len(names))
    axis.errorbar(places, means, reach, fmt="o", color="C0", capsize=3)
    axis.set_xticks(places, [TABLE_1[name].title for name in names], rotation=40, ha="right", fontsize=8)
    axis.set(title=title)
    axis.grid(alpha=0.3, axis="y")
