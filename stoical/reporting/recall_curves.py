"""R@k over k for groups of runs, as Figure 4 of the SToICaL paper has it; a group is one setting under several seeds.

Dimension letters: S runs of a group, N queries, K cutoffs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Floats
from stoical.evaluation.intervals import intervals
from stoical.evaluation.paper import recall_at_k
from stoical.reporting.compare import load_run
from stoical.reporting.figure import error_bars, plt, save

MARKERS = "os^Dvx*+"  # lines stay apart in black and white, too
STYLE: dict[str, Any] = {"markersize": 4, "linewidth": 1.2, "capsize": 2}
Groups = Mapping[str, Sequence[Path]]
"""Label -> the directories of its runs, or of their evaluations."""


def plot_recall(panels: Mapping[str, Groups], cutoffs: Sequence[int], output: Path) -> None:
    """A panel a title, written to `output`: R@k (%) of each group over the cutoffs, with 95% intervals.

    A line is the mean over a group's seeds. An interval is a bootstrap over the queries of that mean. Raises
    `ValueError` for runs of one group that were not evaluated on the same queries.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.8), layout="constrained", sharey=True)
    for axis, (title, groups) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for place, (label, runs) in enumerate(groups.items()):
            recall = 100 * mean_recall(runs, cutoffs)
            means = recall.mean(axis=0)
            shifted = np.array(cutoffs) + 0.06 * (place - (len(groups) - 1) / 2)  # so that bars do not hide each other
            bars = error_bars(means, intervals(recall))
            axis.errorbar(shifted, means, bars, marker=MARKERS[place % len(MARKERS)], label=label, **STYLE)
        axis.set(xlabel="k", title=title, xticks=cutoffs)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize="small", loc="lower right")
    np.atleast_1d(axes)[0].set(ylabel="R@k (%)")
    save(figure, output)


def mean_recall(runs: Sequence[Path], cutoffs: Sequence[int]) -> Floats:
    """[N, K] R@k of every query, the mean over the runs [S]; queries by query_id."""
    found = [_recall(run, cutoffs) for run in runs]
    for run, rows in zip(runs, found, strict=True):
        if rows.keys() != found[0].keys():
            raise ValueError(f"{run} was evaluated on other queries than {runs[0]}")
    return np.mean([[rows[query] for query in found[0]] for rows in found], axis=0)


def _recall(run: Path, cutoffs: Sequence[int]) -> dict[str, list[float]]:
    rows = load_run(str(run)).rows
    return {
        query: [recall_at_k(np.array(row.scores), np.array(row.ranks), k, row.num_negatives) for k in cutoffs]
        for query, row in rows.items()
    }
