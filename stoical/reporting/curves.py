"""Training curves of one or more runs as a PNG, out of their metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from stoical.reporting.figure import plt, save

PANELS = (("eval_cvr", "constraint violation rate (%)"), ("eval_ndcg", "nDCG (%)"))


def plot_curves(runs: Mapping[str, Path], output: Path) -> None:
    """CVR and nDCG over steps for each run (label -> run directory), written to `output`."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 3.4), layout="constrained")
    for axis, (metric, title) in zip(axes, PANELS, strict=True):
        for label, directory in runs.items():
            steps, values = read_curve(directory / "metrics.jsonl", metric)
            axis.plot(steps, [100 * value for value in values], marker="o", markersize=3, label=label)
        axis.set(xlabel="optimizer step", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    save(figure, output)


def read_curve(path: Path, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric in a metrics.jsonl; a step logged twice (a resumed run) keeps its last value."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    points = {int(record["step"]): float(record[metric]) for record in records if metric in record}
    return sorted(points), [points[step] for step in sorted(points)]
