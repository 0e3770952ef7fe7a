"""The race as a figure: a row a dataset; quality over processor seconds, and over input tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import EngFormatter, NullFormatter

from benchmarks.race.entrants import ENTRANTS
from benchmarks.race.report import TITLES, shown_metrics, systems_of
from stoical.reporting.figure import plt, save

COLOURS = dict(zip(ENTRANTS, ("C3", "C1", "C7", "C0", "C9", "C2", "C4"), strict=True))


def draw(runs: dict[str, Sequence[dict[str, Any]]], output: Path) -> None:
    """Write the figure. A line is one run: dashed where a rival had less time than its longest run."""
    figure, axes = plt.subplots(len(runs), 3, figsize=(13, 3.7 * len(runs)), layout="constrained", squeeze=False)
    for row, (dataset, records) in zip(axes, runs.items(), strict=True):
        first, second = shown_metrics(records)
        for axis, metric, over in zip(row, (first, second, first), ("seconds", "seconds", "tokens"), strict=True):
            panel(axis, records, metric, over)
            axis.set(title=f"{dataset}: {TITLES[metric]} (%)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, output)


def panel(axis: Any, records: Sequence[dict[str, Any]], metric: str, over: str) -> None:
    """One metric of all runs over what they had spent, on a logarithmic axis."""
    longest = max((record["horizon"] or 0 for record in records), default=0)
    labelled = set()
    for system in systems_of(records):
        for record in (each for each in records if each["system"] == system):
            marks = [mark for mark in record["marks"] if mark[over] > 0]
            style = "-" if record["horizon"] in (None, longest) else "--"
            axis.plot(
                [mark[over] for mark in marks],
                [100 * mark["metrics"][metric] for mark in marks],
                style,
                color=COLOURS[system],
                linewidth=1.6 if ENTRANTS[system].ours else 1.0,
                label=None if system in labelled else ENTRANTS[system].title,
            )
            labelled.add(system)
    axis.set(xscale="log", xlabel="processor seconds of training" if over == "seconds" else "input tokens of training")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
