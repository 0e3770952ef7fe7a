"""The study's figures: thresholds, ceilings, the small ranker, and LIMIT's critical n."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from matplotlib.axis import Axis

from stoical.reporting.figure import FADED, plt, save
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
from stoical.studies.capacity.limit import published_curve

Rows = Sequence[dict[str, Any]]
LARGEST = 200  # documents of the first figure

WORDS = {"dot": "dot product", "distance": "Euclidean distance (Eq. 2)"}


def write_figures(rows: Rows, output: Path) -> None:
    """Write the figures of the parts that there are."""
    plot_thresholds(output / "thresholds.png")
    for part, plot in (("ceilings", plot_ceilings), ("ranker", plot_ranker), ("limit", plot_limit)):
        found = [row for row in rows if row["part"] == part]
        if found:
            plot(found, output / f"{part}.png")


def plot_thresholds(output: Path) -> None:
    """Documents against dimensions: what Theorem 3.1 excludes, what is exact, and what top lists take."""
    ks = np.arange(2, LARGEST + 1)
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    bound = [paper_bound(int(k)) for k in ks]
    axis.plot(ks, [exact_dimension(int(k), "distance") for k in ks], "-", label="all orders, exact: k - 1")
    axis.plot(ks, bound, "--", label="all orders, Theorem 3.1: more than ln k! / (2 ln k)")
    axis.fill_between(ks, 0, bound, color=FADED, alpha=0.4, linewidth=0)
    for length, style in zip(TOP_LISTS, (":", "-."), strict=True):
        enough = [list_dimension(length, int(k)) for k in ks]
        axis.plot(ks, enough, style, label=f"ordered top {length} of k, enough: {2 * length}")
    axis.set(xlabel="documents k", ylabel="dimensions n of a dual encoder", xscale="log", yscale="log")
    _plain(axis.xaxis, axis.yaxis)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    save(figure, output)


def _plain(*axes: Axis) -> None:
    """Numbers of logarithmic axes as digits: what matplotlib writes by itself is mathematical text, which is off."""
    for axis in axes:
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter("")


def plot_ceilings(rows: Rows, output: Path) -> None:
    """The share of the k! orders by dimensions: exact as lines, trained documents' reach and training as marks."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    ks = sorted({row["documents"] for row in rows if row["documents"] > 2})
    for axis, similarity in zip(axes, get_args(Similarity), strict=True):
        for place, k in enumerate(ks):
            color, all_orders = f"C{place}", math.factorial(k)
            ns = range(1, k)
            axis.plot(ns, [100 * orders(k, n, similarity) / all_orders for n in ns], color=color, label=f"k = {k}")
            own = [row for row in rows if row["documents"] == k and row["similarity"] == similarity]
            dimensions = [row["dimensions"] for row in own]
            for what, style in (("within_reach", "o"), ("trained", "x")):
                shares = [100 * row[what] / all_orders for row in own]
                axis.plot(dimensions, shares, style, color=color, markersize=6, fillstyle="none")
        axis.plot([], [], "o", color="black", fillstyle="none", label="trained documents,\nbest queries")
        axis.plot([], [], "x", color="black", label="trained documents\nand queries")
        axis.set(xlabel="dimensions n", title=WORDS[similarity], yscale="log", xticks=range(1, max(ks)))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="% of the k! orders (lines: exact)")
    _plain(axes[0].yaxis)
    axes[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, output)


def plot_ranker(rows: Rows, output: Path) -> None:
    """Orders that the ranker has right by documents, beside the most of dual encoders of its hidden size."""
    hidden = rows[0]["hidden"]
    ks = sorted({row["documents"] for row in rows})
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    axis.plot(ks, [math.factorial(k) for k in ks], "-", color=FADED, linewidth=6, label="all k! orders")
    axis.plot([row["documents"] for row in rows], [row["right"] for row in rows], "o", label="autoregressive, trained")
    for name, count, style in (("distance", distance_orders, "s--"), ("dot", dot_orders, "^:")):
        most = [count(k, hidden) for k in ks]
        axis.plot(ks, most, style, markersize=5, label=f"dual encoder, at most: {WORDS[name]}")
    axis.set(xlabel="documents k", ylabel="orders ranked right", yscale="log", xticks=ks)
    axis.set_title(f"hidden vectors and embeddings of {hidden} numbers", fontsize=10)
    _plain(axis.yaxis)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    save(figure, output)


def plot_limit(rows: Rows, output: Path) -> None:
    """Critical n by dimension: every seed, LIMIT's curve, and where there is no limit."""
    ds = sorted({row["dimensions"] for row in rows})
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    fine = np.linspace(min(4, ds[-1]), ds[-1], 100)
    axis.plot(fine, [published_curve(d) for d in fine], "--", label="LIMIT's fitted curve")
    found = [row["critical_n"] for row in rows]
    axis.plot([row["dimensions"] for row in rows], found, "o", fillstyle="none", label="trained here, by seed")
    if ds[-1] >= 4:
        axis.axvspan(4, ds[-1] + 0.3, color=FADED, alpha=0.4, linewidth=0, label="exact: no limit (4 = 2 r dimensions)")
    axis.set(xlabel="dimensions d", ylabel="critical n: documents all of whose pairs are found", xticks=ds)
    axis.set(xlim=(ds[0] - 0.3, ds[-1] + 0.3), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    save(figure, output)
