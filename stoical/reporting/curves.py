"""Training curves of one or more runs as a PNG, out of their metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from stoical.data.files import json_value, jsonl_lines
from stoical.evaluation.line_checks import is_count, is_number
from stoical.evaluation.metrics import METRICS
from stoical.reporting.figure import plt, save


def plot_curves(runs: Mapping[str, Path], output: Path) -> None:
    """A panel a metric (CVR, nDCG) over steps, for each run (label -> run directory), written to `output`.

    Its title is the data that the runs were evaluated on, or each label names its own.
    """
    panels = [metric for metric in METRICS if "curves" in metric.shown]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.4), layout="constrained")
    data = {label: _data(directory) for label, directory in runs.items()}
    shared = len({*data.values()}) == 1
    if shared:
        figure.suptitle(next(iter(data.values())))
    for axis, metric in zip(axes, panels, strict=True):
        for label, directory in runs.items():
            steps, values = read_curve(directory / "metrics.jsonl", f"eval_{metric.name}")
            name = label if shared else f"{label}, {data[label]}"
            axis.plot(steps, [100 * value for value in values], marker="o", markersize=3, label=name)
        axis.set(xlabel="optimizer step", title=f"{metric.full_title or metric.title} (%)")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    save(figure, output)


def _data(run: Path) -> str:
    """The data that a run was evaluated on while it trained, such as mammal/test."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    return f"{Path(recipe['data']['path']).resolve().name}/test"


def read_curve(path: Path, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric in a metrics.jsonl; a step logged twice (a resumed run) keeps its last value.

    Raises `ValueError` naming the line that is not of such a file.
    """
    points: dict[int, float] = {}
    for where, line in jsonl_lines(path):
        record = json_value(line, where)
        if not isinstance(record, Mapping) or not is_count(record.get("step")):
            raise ValueError(f"{where} is not an object with a 'step'")
        value = record.get(metric, 0.0)
        if not is_number(value):
            raise ValueError(f"{where}: {metric!r} is not a number")
        if metric in record:
            points[record["step"]] = float(value)
    return sorted(points), [points[step] for step in sorted(points)]
