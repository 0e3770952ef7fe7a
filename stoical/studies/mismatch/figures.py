"""The study's figures: the paper's Figures 1 and 2 for both blocks, mismatch by length, methods by metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stoical.reporting.figure import FADED, plt, save
from stoical.studies.mismatch.statistics import Difference, half_width
from stoical.studies.mismatch.tables import EXACT, Rows

STYLES = ("o-", "s--", "^:", "v-.", "x-", "d--")
SHOWN = ("ndcg", "recall@1", "expected_gain", "docid_kl", "valid_mass")


def by_position(rows: Rows, unit: str, title: str, output: Path) -> None:
    """Figure 1: KL by position, on the model's own prefixes and on the target's, with 95% intervals."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    panels = {"kl_ar": "free running: the model's own prefixes", "kl_tf": "teacher forcing: the target's prefixes"}
    for axis, (key, name) in zip(axes, panels.items(), strict=True):
        for (method, measured), style in zip(rows.items(), STYLES, strict=False):
            values = measured[key]
            steps = np.arange(1, values.shape[1] + 1)
            bars = [half_width(column) for column in values.T]
            axis.errorbar(steps, values.mean(axis=0), bars, fmt=style, markersize=4, capsize=2, label=method)
        axis.set(title=name, xlabel="token of the docID")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=f"KL to the target ({unit})", ylim=(0, None))  # shared: after both have been drawn
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    save(figure, output)


def by_method(rows: Rows, quality: str, title: str, references: Mapping[str, float], output: Path) -> None:
    """Figure 2: a quality and the mismatch by method, with 95% intervals; `references` are lines across."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.6 + 0.32 * len(rows)), layout="constrained", sharey=True)
    names = list(rows)
    for axis, (key, label) in zip(axes, ((quality, title), ("mismatch", "mismatch")), strict=True):
        values = [rows[name][key] for name in names]
        axis.barh(names, [one.mean() for one in values], xerr=[half_width(one) for one in values], capsize=2)
        axis.set(xlabel=label)
        axis.axvline(0, color=FADED)
        axis.locator_params(axis="x", nbins=6)
        axis.grid(alpha=0.3, axis="x")
    for place, (name, value) in enumerate(references.items()):
        axes[0].axvline(value, linestyle=(":", "--", "-.")[place % 3], color="black", label=name)
    axes[0].invert_yaxis()
    if references:
        axes[0].legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    save(figure, output)


def by_length(lengths: Mapping[int, Rows], output: Path) -> None:
    """Mismatch, and what is lost on the way, by tokens of a docID, with 95% intervals."""
    panels = {"mismatch": "mismatch, mean over t > 1 (nats)", "docid_kl": "KL(π ‖ p) of a docID (nats)"}
    panels |= {"ndcg": "nDCG"}
    figure, axes = plt.subplots(1, len(panels), figsize=(14, 4.2), layout="constrained")
    numbers = list(lengths)
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for method, style in zip(next(iter(lengths.values())), STYLES, strict=False):
            values = [lengths[number][method][key] for number in numbers]
            bars = [half_width(one) for one in values]
            axis.errorbar(
                numbers, [one.mean() for one in values], bars, fmt=style, markersize=4, capsize=2, label=method
            )
        axis.set(xlabel="tokens of a docID", ylabel=label, xticks=numbers)
        axis.grid(alpha=0.3)
    axes[0].axhline(0, color=FADED, zorder=0)
    axes[-1].legend(frameon=False, fontsize=8)
    save(figure, output)


def by_metric(compared: Mapping[str, Mapping[str, Difference]], reference: str, output: Path) -> None:
    """Methods by metrics: paired differences from the reference, 95% intervals, filled where Holm's test passes."""
    columns = [column for column in EXACT if column.name in SHOWN]
    names = list(compared[columns[0].name])
    figure, axes = plt.subplots(
        1, len(columns), figsize=(3.1 * len(columns) + 2, 1.4 + 0.24 * len(names)), layout="constrained", sharey=True
    )
    for axis, column in zip(axes, columns, strict=True):
        for place, name in enumerate(names):
            one = compared[column.name][name]
            color = _color(one, column.better)
            face = color if one.significant else "white"
            axis.errorbar(
                column.times * one.mean,
                place,
                xerr=column.times * one.half,
                fmt="o",
                color=color,
                markerfacecolor=face,
                markersize=5,
                capsize=2,
            )
        axis.axvline(0, color=FADED, zorder=0)
        axis.set(xlabel=column.title, yticks=range(len(names)), yticklabels=names)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle(
        f"difference from {reference}, paired; bars: 95% intervals; filled: significant after Holm", fontsize=10
    )
    save(figure, output)


def _color(one: Difference, better: int) -> str:
    if not one.significant:
        return "0.4"
    return "tab:green" if one.mean * better > 0 else "tab:red"


def table_of(rows: Rows, names: Sequence[str]) -> Rows:
    """Those of the rows, in that order, that are there."""
    return {name: rows[name] for name in names if name in rows}
