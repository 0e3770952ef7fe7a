"""The race as tables and a figure: who reached which quality when.

A threshold is what stoical (lambda = 1/r^2) has at a share of its steps, the mean over seeds. A run reaches it at the
first mark that is as good. Of a rival's runs with one seed, the one that reaches it first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.measure import markdown_table
from benchmarks.race.entrants import ENTRANTS
from benchmarks.race.scoring import OURS, noise, rates

Record = dict[str, Any]
SHARES = (0.25, 0.5, 1.0)
TITLES = {"ndcg": "nDCG", "cvr": "CVR", "recall@1": "R@1"}
LOWER = {"cvr"}
NOT_REACHED = "not in"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A metric's value that is to be reached."""

    metric: str
    share: float
    value: float

    @property
    def title(self) -> str:
        """Of its column."""
        sign = "≤" if self.metric in LOWER else "≥"
        return f"{TITLES[self.metric]} {sign} {100 * self.value:.2f} ({self.share:.0%})"

    def reached(self, record: Record) -> dict[str, Any] | None:
        """The first mark of a run that is as good, or None."""
        sign = -1 if self.metric in LOWER else 1
        good = (mark for mark in record["marks"] if sign * (mark["metrics"][self.metric] - self.value) >= -1e-9)
        return next(good, None)


def thresholds(records: Sequence[Record]) -> list[Threshold]:
    """What stoical reached at the shares of its steps, in the two metrics that are shown."""
    ours = [record for record in records if record["system"] == "stoical"]
    return [
        Threshold(metric, share, mean(at_share(record, share)["metrics"][metric] for record in ours))
        for metric in shown_metrics(ours)
        for share in SHARES
    ]


def shown_metrics(records: Sequence[Record]) -> tuple[str, str]:
    """NDCG and CVR, or R@1 where the data has no negatives."""
    return "ndcg", "cvr" if "cvr" in records[0]["marks"][0]["metrics"] else "recall@1"


def at_share(record: Record, share: float) -> dict[str, Any]:
    """The last mark at or before a share of a run's steps."""
    last = record["marks"][-1]["step"]
    found: dict[str, Any] = [mark for mark in record["marks"] if mark["step"] <= share * last][-1]
    return found


def by_seed(records: Sequence[Record], system: str) -> dict[int, list[Record]]:
    """A system's runs, by seed."""
    found: dict[int, list[Record]] = {}
    for record in records:
        if record["system"] == system:
            found.setdefault(record["seed"], []).append(record)
    return found


def first_reached(runs: Sequence[Record], threshold: Threshold) -> dict[str, Any] | None:
    """The earliest mark, in seconds, at which one of the runs reaches a threshold."""
    marks = [mark for run in runs if (mark := threshold.reached(run)) is not None]
    return min(marks, key=lambda mark: float(mark["seconds"]), default=None)


def spread_of(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Mean and standard deviation over seeds."""
    return shown(mean(values)) + (f" ± {shown(stdev(values))}" if len(values) > 1 else "")


def amount(value: float) -> str:
    """Tokens, in millions."""
    return f"{value / 1e6:.2f}M"


def seconds(value: float) -> str:
    """Seconds, to a tenth below 10."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def reached_table(records: Sequence[Record], what: str, shown: Callable[[float], str], unit: str) -> str:
    """A row a system, a column a threshold: the mean over seeds, and how many times stoical's it is."""
    wanted, rows = thresholds(records), []
    ours = by_seed(records, "stoical")
    for system in systems_of(records):
        row = {"system": ENTRANTS[system].title}
        runs = by_seed(records, system)
        for threshold in wanted:
            marks = {seed: first_reached(own, threshold) for seed, own in runs.items()}
            found = {seed: float(mark[what]) for seed, mark in marks.items() if mark is not None}
            row[threshold.title] = cell(found, len(runs), longest(runs, what), shown, unit)
            theirs = {seed: first_reached(ours[seed], threshold) for seed in found}
            ratios = [found[seed] / mark[what] for seed, mark in theirs.items() if mark is not None and mark[what] > 0]
            if system != "stoical" and len(ratios) == len(runs):
                row[threshold.title] += f" ({mean(ratios):.1f}x)"
        rows.append(row)
    return markdown_table(rows)


def cell(found: dict[int, float], seeds: int, most: float, shown: Callable[[float], str], unit: str) -> str:
    """What was reached by how many of the seeds, or after how much it was not."""
    if not found:
        return f"{NOT_REACHED} {shown(most)}{unit}"
    text = f"{spread_of(list(found.values()), shown)}{unit}"
    return text if len(found) == seeds else f"{text}, {len(found)} of {seeds} seeds"


def longest(runs: dict[int, list[Record]], what: str) -> float:
    """How far the longest run went."""
    return max(float(record["marks"][-1][what]) for own in runs.values() for record in own)


def systems_of(records: Sequence[Record]) -> list[str]:
    """The systems that ran, in the order of the entrants."""
    ran = {record["system"] for record in records}
    return [name for name in ENTRANTS if name in ran]


def ends_table(records: Sequence[Record]) -> str:
    """Where every run ended, the mean over seeds: what it had spent, and its metrics in per cent."""
    rows = []
    for system in systems_of(records):
        for horizon in dict.fromkeys(record["horizon"] for record in records if record["system"] == system):
            runs = [record for record in records if (record["system"], record["horizon"]) == (system, horizon)]
            last = [record["marks"][-1] for record in runs]
            row = {"system": ENTRANTS[system].title, "horizon": "own steps" if horizon is None else f"{horizon:g}x"}
            row["s"] = seconds(mean(mark["seconds"] for mark in last))
            row["steps"] = f"{mean(mark['step'] for mark in last):,.0f}"
            row["tokens"] = amount(mean(mark["tokens"] for mark in last))
            for name in last[0]["metrics"]:
                row[TITLES[name]] = spread_of([100 * mark["metrics"][name] for mark in last], lambda x: f"{x:.2f}")
            row["waiting"] = f"{1 - sum(mark['seconds'] for mark in last) / sum(mark['wall'] for mark in last):.0%}"
            row["seeds"] = str(len(runs))
            rows.append(row)
    return markdown_table(rows)


def scoring_table(results: dict[str, dict[str, Any]]) -> str:
    """Queries a second of every way, and how many times as many stoical scores."""
    rows = []
    for dataset, result in results.items():
        found, (noisy, waited) = rates(result), noise(result)
        row = {"dataset": dataset, "queries": result["queries"], "documents": result["documents"]}
        for name, rate in found.items():
            row[name] = f"{rate:.2f}/s" + ("" if name == OURS else f" ({found[OURS] / rate:.1f}x)")
        row["nats"] = f"{result['max_difference_nats']:.0e}"
        rows.append(row | {"noise": f"{noisy:.0%}", "waiting": f"{waited:.0%}"})
    return markdown_table(rows)


def tuned_table(records: Sequence[Record]) -> str:
    """What was tuned for every rival."""
    rows = []
    for system in systems_of(records):
        tuned = next(record["settings"]["tuned"] for record in records if record["system"] == system)
        if tuned is not None:
            row = {"system": ENTRANTS[system].title, "rows or lists a step": tuned["batch"]}
            row |= {"learning rate": f"{tuned['learning_rate']:g}", "rows of like length": tuned["grouped"]}
            rows.append(row)
    return markdown_table(rows) if rows else ""


def tables(results: dict[str, Any]) -> dict[str, str]:
    """All tables, by title; a dataset that was skipped says why."""
    found = {}
    for dataset, records in results["runs"].items():
        found[f"{dataset}: processor seconds to a quality"] = reached_table(records, "seconds", seconds, " s")
        found[f"{dataset}: input tokens to a quality"] = reached_table(records, "tokens", amount, "")
        found[f"{dataset}: where the runs ended, %"] = ends_table(records)
        found[f"{dataset}: what was tuned"] = tuned_table(records)
    if results["scoring"]:
        found["scoring: queries a processor second"] = scoring_table(results["scoring"])
    for dataset, reason in results["skipped"].items():
        found[f"{dataset}: skipped"] = reason
    return {title: text for title, text in found.items() if text}
