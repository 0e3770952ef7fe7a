"""The paper's metrics of one evaluation as bars, with 95% intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stoical.reporting.figure import error_bars, plt, save
from stoical.reporting.tables import metric_names, title


def plot_metrics(metrics: Mapping[str, Any], name: str, output: Path) -> None:
    """CVR, nDCG and R@k in per cent, out of what metrics.json holds, written to `output`."""
    names = metric_names(metrics)
    values = 100 * np.array([metrics[metric] for metric in names])
    intervals = 100 * np.array([metrics["intervals"][metric] for metric in names])
    figure, axis = plt.subplots(figsize=(1.6 + 0.75 * len(names), 3.4), layout="constrained")
    colors = ["tab:red" if metric == "cvr" else "tab:blue" for metric in names]
    axis.bar(range(len(names)), values, color=colors, alpha=0.8)
    axis.errorbar(range(len(names)), values, error_bars(values, intervals), fmt="none", ecolor="black", capsize=4)
    for place, (value, high) in enumerate(zip(values, intervals[:, 1], strict=True)):
        axis.text(place, max(value, high) + 1.5, f"{value:.1f}", ha="center", fontsize=9)
    axis.set_xticks(range(len(names)), [title(metric) for metric in names])
    axis.set(ylabel="%", ylim=(0, 110), yticks=range(0, 101, 20))
    axis.set_title(f"{name}: {metrics['num_queries']} queries, mode {metrics['mode']}", fontsize=10)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    save(figure, output)
