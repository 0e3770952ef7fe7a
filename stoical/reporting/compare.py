"""Several evaluations of the same queries side by side, with paired bootstrap differences from the first.

Dimension letters: N queries, K metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Floats
from stoical.common.files import put_back
from stoical.evaluation.intervals import BOOTSTRAP, columns, intervals
from stoical.evaluation.metrics import Metric, metrics_among
from stoical.evaluation.result import QueryResult
from stoical.reporting.evaluation_dir import SHOWN, evaluated_data, read_evaluation
from stoical.reporting.generation import generation_table, summarise_generation
from stoical.reporting.tables import data_label, header, markdown, percent, reference_cells, score_unit

GRADE_READERS: dict[str, Callable[[Metric], bool]] = {  # key of metrics.json -> which metrics it changes
    "gains": lambda metric: metric.needs_grades,
    "relevant_above": lambda metric: metric.by_relevance,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation as it was written: where, its name, metrics.json, and its queries by query_id."""

    path: Path
    name: str
    metrics: Mapping[str, Any]
    rows: Mapping[str, QueryResult]

    @property
    def scored(self) -> str:
        """How its documents were scored."""
        if not score_unit(self.metrics["mode"]):
            return f"{self.metrics['mode']}, {self.metrics['score']}"
        ends = {"none": ", no terminator"}.get(self.metrics["terminator"], ", terminator not counted")
        return f"{self.metrics['mode']}, {self.metrics['score']}{'' if self.metrics['count_terminator'] else ends}"


def load_run(directory: str) -> Run:
    """The evaluation in `directory`/eval, or in `directory` itself.

    Raises `ValueError` naming the file that is missing or that `stoical evaluate` did not write so.
    """
    path = Path(directory)
    put_back(path / "eval")
    path = path / "eval" if (path / "eval").is_dir() else path
    metrics, rows = read_evaluation(path, f"stoical evaluate checkpoint={directory}")
    return Run(path, _name(path.resolve()), metrics, {row.query_id: row for row in rows})


def _name(path: Path) -> str:
    """The run's directory, and what is between it and the files unless that is `eval`."""
    if path.name == "eval":
        return path.parent.name
    return f"{path.parent.name}/{path.name}" if path.name.startswith("eval") else path.name


def compare_runs(runs: Sequence[Run]) -> str:
    """A markdown table: a row a run, and a row for each later run's differences from the first, with a note below.

    Raises `ValueError` for fewer than two runs, and for runs that were not evaluated on the same data, or did not rank
    the same documents for the same queries.
    """
    if len(runs) < 2:
        raise ValueError("give two or more runs: stoical compare runs/ONE runs/OTHER")
    first, *others = runs
    for other in others:
        _check_same_data(first, other)
        _check_same_queries(first, other)
    shown = metrics_among((name for run in runs for name in run.metrics), "tables", "comparison")
    widths = {run.metrics["num_beams"] for run in runs if "free_run_ndcg" in run.metrics}
    if len(widths) > 1:
        shown = [metric for metric in shown if metric.name != "free_run_ndcg"]
    shown, unlike = _read_alike(runs, shown)
    names = [metric.name for metric in shown]
    labels = _labels(runs)
    body = [
        [label, run.scored, *(percent(run.metrics.get(name)) for name in names), str(run.metrics["num_queries"])]
        for label, run in zip(labels, runs, strict=True)
    ]
    for label, other in zip(labels[1:], others, strict=True):
        body.append([f"{label} − {labels[0]}", "", *differences(first, other, names), ""])
    body += [[name, "", *cells, ""] for name, *cells in reference_cells(first.metrics, shown)]
    title, *rest = header(shown, data_label([run.metrics for run in runs]))
    note = (
        f"In per cent; differences in percentage points with {BOOTSTRAP['level']:.0%} intervals, by a paired "
        f"percentile bootstrap over {len(first.rows):,} queries ({BOOTSTRAP['resamples']:,} resamples, seed "
        f"{BOOTSTRAP['seed']}). Bold: the interval excludes 0.{_beams(widths)}{unlike}"
    )
    return f"{markdown([[title, 'scored', *rest], *body])}\n\n{note}"


def compare_generations(runs: Sequence[Run]) -> str:
    """A table of what eval.generation=true found, a row a run; "" where a run was evaluated without it."""
    if any(row.generation is None for run in runs for row in run.rows.values()):
        return ""
    written = [summarise_generation(run.rows.values()) for run in runs]
    return generation_table(list(zip(_labels(runs), written, strict=True)), data_label([run.metrics for run in runs]))


def _read_alike(runs: Sequence[Run], shown: Sequence[Metric]) -> tuple[list[Metric], str]:
    """The metrics whose reading of grades is the same in all runs, and the note's words on those left out."""
    kept, note = list(shown), ""
    for key, reads in GRADE_READERS.items():
        readers = [metric for metric in kept if reads(metric)]
        found = {str(run.metrics.get(key)) for run in runs if any(metric.name in run.metrics for metric in readers)}
        if len(found) > 1:
            kept = [metric for metric in kept if metric not in readers]
            titles = ", ".join(metric.title for metric in readers)
            note += f" Left out, as eval.{key} differs ({', '.join(sorted(found))}): {titles}."
    return kept, note


def _beams(widths: set[int]) -> str:
    """The note's words on the beam search behind the free-run nDCG, for the `widths` that the runs had."""
    if len(widths) > 1:
        return f" Free-run nDCG is left out: its beam widths differ ({', '.join(map(str, sorted(widths)))})."
    return f" Free-run nDCG: constrained beam search of width {min(widths)}." if widths else ""


def differences(first: Run, other: Run, names: Sequence[str]) -> list[str]:
    """A cell a metric: other minus first, with its interval; an en dash where one of them lacks the metric."""
    change = paired(first, other, names)
    cells = []
    for column in change.T:
        if np.isnan(column).all():
            cells.append(percent(None))
            continue
        low, high = 100 * intervals(column[:, None])[0]
        text = f"{100 * np.nanmean(column):+.2f} [{low:+.2f}, {high:+.2f}]"
        cells.append(f"**{text}**" if low > 0 or high < 0 else text)
    return cells


def paired(first: Run, other: Run, names: Sequence[str]) -> Floats:
    """[N, K] other minus first for every query, in the first run's order; NaN where one of them lacks the metric."""
    ours = columns([other.rows[query_id].metrics for query_id in first.rows], names)
    change: Floats = ours - columns([row.metrics for row in first.rows.values()], names)
    return change


def _labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names; their paths where two are named alike."""
    names = [run.name for run in runs]
    return [str(run.path) if names.count(run.name) > 1 else run.name for run in runs]


def _check_same_data(first: Run, other: Run) -> None:
    made_on = [evaluated_data(run.metrics) for run in (first, other)]
    sums = {data.sha256 if data else None for data in made_on}
    if len(sums) > 1:
        ours, theirs = (data.exactly if data else "data without a name" for data in made_on)
        raise ValueError(
            f"{first.path} was evaluated on {ours}, and {other.path} on {theirs}; compare runs that were evaluated on "
            "the same data"
        )


def _check_same_queries(first: Run, other: Run) -> None:
    lacks, has_more = first.rows.keys() - other.rows.keys(), other.rows.keys() - first.rows.keys()
    if lacks or has_more:
        parts = [f"{word} {_some(names)}" for word, names in (("lacks", lacks), ("also has", has_more)) if names]
        raise ValueError(f"{other.path} has not the queries of {first.path}: it {' and '.join(parts)}")
    for query_id, row in first.rows.items():
        if _judged(row) != _judged(other.rows[query_id]):
            raise ValueError(
                f"query {query_id!r} has other documents in {other.path} than in {first.path}; compare runs that were "
                "evaluated on the same data with the same prompt.max_length, and the same seed: it draws which of the "
                "documents of one rank are in a prompt that is too short for all"
            )


def _judged(row: QueryResult) -> list[tuple[bool, int, str]]:
    """A query's documents with their ranks, negatives last, those of one rank by docID."""
    places = enumerate(zip(row.ranks, row.docids, strict=True))
    return sorted((place >= row.num_listed, rank, docid) for place, (rank, docid) in places)


def _some(names: set[str]) -> str:
    """How many queries, and the first few of them by name."""
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{len(names):,} ({shown}{', ...' if len(names) > SHOWN else ''})"
