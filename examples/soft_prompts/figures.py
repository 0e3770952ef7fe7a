"""The study's figures: match rate by step, teacher-forced accuracy against exact match, horizon by vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.soft_prompts.rows import REFERENCE
from stoical.reporting.figure import plt, save

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # row -> a result a seed


def _shades(names: Sequence[str]) -> dict[str, Any]:
    """A colour a row, the reference in black."""
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, 20))
    return {name: "black" if name == REFERENCE else colours[place % 20] for place, name in enumerate(names)}


def _curve(results: Sequence[Mapping[str, Any]], steps: Sequence[int], key: str) -> Any:
    """The mean over seeds of a share at `steps`; a run that ended early keeps its last value."""
    values = []
    for result in results:
        log = result["log"]
        values.append(np.interp(steps, [row["step"] for row in log], [row[key] for row in log]))
    return 100 * np.mean(values, axis=0)


def by_step(results: Results, output: Path) -> None:
    """Exact match under generate, by step."""
    figure, axis = plt.subplots(figsize=(10, 6), layout="constrained")
    steps = range(max(result["job"]["steps"] for own in results.values() for result in own) + 1)
    for name, shade in _shades([*results]).items():
        on_top = {"zorder": 5, "linestyle": "--"} if name == REFERENCE else {}  # others run along with it
        axis.plot(steps, _curve(results[name], steps, "exact"), color=shade, label=name, linewidth=1.5, **on_top)
    axis.set_xlabel("step")
    axis.set_ylabel("texts that generate writes exactly, greedily (%)")
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)
    save(figure, output)


def gap(results: Results, output: Path) -> None:
    """Each check of each row: accuracy of the teacher-forced argmax, and exact match."""
    figure, axis = plt.subplots(figsize=(8, 6.5), layout="constrained")
    for name, shade in _shades([*results]).items():
        points = [(row["teacher_forced"], row["exact"]) for result in results[name] for row in result["log"]]
        forced, exact = 100 * np.array(sorted(points)).T
        axis.scatter(forced, exact, s=7, color=shade, label=name)
    axis.plot([0, 100], [0, 100], color="grey", linewidth=0.8, linestyle="--")
    axis.set_xlabel("positions whose teacher-forced argmax is right (%)")
    axis.set_ylabel("texts that generate writes exactly, greedily (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, markerscale=2)
    save(figure, output)


def horizons(found: Mapping[str, Mapping[int, float]], output: Path) -> None:
    """The longest text, in tokens, that a row writes exactly, by the vectors of its prompts."""
    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    names, width = [*found], 0.8 / max(1, len(found))
    counts = sorted({count for own in found.values() for count in own})
    for place, (name, shade) in enumerate(_shades(names).items()):
        heights = [found[name].get(count, 0.0) for count in counts]
        axis.bar(np.arange(len(counts)) + place * width - 0.4, heights, width, color=shade, label=name, align="edge")
    axis.set_xticks(range(len(counts)), [str(count) for count in counts])
    axis.set_xlabel("vectors of a prompt")
    axis.set_ylabel("longest text written exactly (tokens, EOS included)")
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=8, ncols=2)
    save(figure, output)
