"""How long lists, prompts and docIDs are: Figure 3 of the SToICaL paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Ints
from stoical.reporting.figure import plt, save

BINS = 50
PANELS = {
    "documents": "documents in the list",
    "prompt_tokens": "tokens of the prompt",
    "docid_tokens": "tokens of a docID",
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of all Q queries of a dataset: `documents` [Q] and `prompt_tokens` [Q]; `docid_tokens` [pairs], terminators
    included; `too_long` of the queries lose documents at `max_length`.
    """

    documents: Ints
    prompt_tokens: Ints
    docid_tokens: Ints
    max_length: int
    too_long: int


def bars(values: Ints) -> tuple[Ints, Ints]:
    """Edges [K + 1] and counts [K] of at most BINS bars, equally wide; a bar holds its lower edge only."""
    low, high = int(values.min()), int(values.max()) + 1
    width = -(-(high - low) // BINS)
    edges = np.arange(low, high + width, width)
    return edges, np.histogram(values, edges)[0]


def histograms_of(lengths: Lengths) -> dict[str, Any]:
    """A dataset's part of the JSON file: for each panel a summary, the edges of the bars and their counts."""
    found: dict[str, Any] = {
        "queries": len(lengths.documents),
        "max_length": lengths.max_length,
        "queries_over_max_length": lengths.too_long,
    }
    for panel in PANELS:
        values = getattr(lengths, panel)
        edges, counts = bars(values)
        summary = {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}
        found[panel] = summary | {
            "mean": round(float(values.mean()), 3),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        }
    return found


def plot_histograms(described: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """A row of panels for each dataset, by name, out of `histograms_of`, written to `output`."""
    figure, axes = plt.subplots(
        len(described), len(PANELS), figsize=(11, 0.6 + 2.4 * len(described)), squeeze=False, layout="constrained"
    )
    for line, (name, found) in zip(axes, described.items(), strict=True):
        for axis, (panel, label) in zip(line, PANELS.items(), strict=True):
            edges, counts = np.array(found[panel]["edges"]), found[panel]["counts"]
            axis.bar(edges[:-1] - 0.5, counts, width=np.diff(edges), align="edge")
            axis.axvline(found[panel]["mean"], color="black", linestyle="--", linewidth=1)
            axis.set(xlabel=label, title=f"mean {found[panel]['mean']:,.1f}, at most {found[panel]['max']:,}")
            axis.title.set_fontsize(9)
            axis.xaxis.get_major_locator().set_params(integer=True)
        line[0].set(ylabel=f"{name}\nqueries")
        line[-1].set(ylabel="(query, docID) pairs")
    save(figure, output)
