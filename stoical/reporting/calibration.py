"""calibration.json and reliability.png: the probabilities among a query's documents beside the loss's target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullFormatter

from stoical.evaluation.calibration import BINS, calibrate
from stoical.evaluation.result import QueryResult
from stoical.reporting.evaluation_dir import CALIBRATION
from stoical.reporting.figure import FADED, plt, save
from stoical.reporting.tables import percent
from stoical.trie.node_weights import TargetSettings

PANELS = {  # key of the bins -> title, what the outcome is
    "bins": ("every document", "mean target μ"),
    "first_bins": ("each query's likeliest document", "share that has rank 1"),
}


def write_calibration(
    rows: Sequence[QueryResult], target: TargetSettings, directory: Path, label: str
) -> dict[str, Any]:
    """Write both files, from the `logprobs` of every query, and return what the first holds."""
    found = {"target": asdict(target), **calibrate(rows, target)}
    text, figure = (directory / name for name in CALIBRATION)
    text.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    plot_reliability(found, label, figure)
    return found


def calibration_words(found: Mapping[str, Any]) -> list[str]:
    """Lines of the summary."""
    as_is, held_out = found["as_is"], found["held_out"]
    words = (
        f"Probabilities among a query's documents beside the loss's target: expected calibration error "
        f"{percent(as_is['ece'])}%, total variation {percent(as_is['total_variation'])}%"
    )
    if held_out is not None:
        words += (
            f"; at a temperature fitted on the other half of the queries, {percent(held_out['ece'])}% and "
            f"{percent(held_out['total_variation'])}%"
        )
    return [f"{words}. Temperature fitted on all: {found['temperature']:.3g}."]


def plot_reliability(found: Mapping[str, Any], label: str, output: Path) -> None:
    """Outcome by probability, a point a bin, as it is and held out; below, how many documents the bins hold."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True, height_ratios=[3, 1], layout="constrained")
    kinds = {"as it is": found["as_is"], "temperature from the other half": found["held_out"]}
    for (above, below), (key, (title, outcome)) in zip(axes.T, PANELS.items(), strict=True):
        above.plot([0, 1], [0, 1], color=FADED)
        for (name, own), style in zip(kinds.items(), ("o-", "s--"), strict=True):
            if own is not None:
                points = own[key]
                xs, ys = ([point[part] for point in points] for part in ("probability", "outcome"))
                above.plot(xs, ys, style, markersize=5, label=name, clip_on=False)
        counts = found["as_is"][key]
        places = [min(int(point["probability"] * BINS), BINS - 1) for point in counts]
        below.bar(
            [(place + 0.5) / BINS for place in places], [point["count"] for point in counts], 0.9 / BINS, color=FADED
        )
        above.set_title(title, fontsize=10)
        above.set(ylabel=outcome, xlim=(0, 1), ylim=(0, 1))
        below.set(xlabel="probability among the documents", ylabel="documents", yscale="log")
        below.yaxis.set_major_formatter("{x:,.0f}")
        below.yaxis.set_minor_formatter(NullFormatter())
        above.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(label, fontsize=10)
    save(figure, output)
