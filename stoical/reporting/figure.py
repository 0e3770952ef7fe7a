"""What the figures share: a backend that needs no display, error bars out of intervals, and saving."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # after the backend is chosen, so that no display is needed
from matplotlib.figure import Figure

from stoical.common.arrays import Floats

__all__ = ["FADED", "error_bars", "plt", "save"]

plt.rcParams["text.parse_math"] = False  # names of runs and data may hold dollar signs

FADED = "0.75"  # grey of what counts queries


def save(figure: Figure, output: Path) -> None:
    """Write a PNG, making its directory, and close the figure."""
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def error_bars(values: Floats, intervals: Floats) -> Floats:
    """[2, K] how far `intervals` [K, 2] reach below and above `values` [K], as matplotlib wants it."""
    return abs(intervals - values[:, None]).T
