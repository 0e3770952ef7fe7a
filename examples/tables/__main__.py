"""`python -m examples.tables`: Tables 1 and 3 of the paper in miniature, ranking losses beside them, claims judged.

Every row trains a small model from scratch on the mammals of WordNet for as many steps of as many queries, seed by
seed, and is evaluated on the test split. Two runs at a time. A run that is done is not done again, so an interrupted
table goes on where it stopped when the command is given again. tables.json has all results, seed by seed, and the
verdict on each claim of the paper's section 5.2 and Appendix D; table_1.png is Appendix C's figure. "listed" is a
metric without the negatives, which a ranking loss alone never sees.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.side_by_side import spread
from examples.tables.claims import Verdict, verdicts
from examples.tables.rows import SECTIONS, TEACHER, TITLES
from examples.tables.runs import Job, job_of, run_all
from stoical.commands.shell import Command, execute
from stoical.common.fields import unknown
from stoical.common.files import write_whole
from stoical.common.options import option

DATA = Path("data/mammal")
COLUMNS = ["cvr", "ndcg", *(f"recall@{k}" for k in range(1, 6)), "invalid_rate"]
SHORT = (["cvr", "ndcg", "recall@1", "recall@5", "invalid_rate"], ["ndcg", "recall@1", "recall@2", "recall@5"])
PACKAGES = ("stoical", "torch", "transformers")


@dataclass
class Options:
    """What the user can set; `--help` prints it."""

    out: str = option("runs/tables", "where runs, tables.json and table_1.png go")
    seeds: str = option("0,1,2", "seeds of initial weights, shuffles and data order")
    steps: int = option(500, "optimizer steps of every run, of 32 queries each")
    sections: str = option(",".join(SECTIONS), "what to run and show")
    workers: int = option(2, "runs at a time, a thread each")
    settings: str = option("", "more settings for every run, parted by blanks, such as data.path=DIR")


def run(options: Options) -> None:
    """Do what is missing, and report."""
    if options.steps < 1 or options.workers < 1:
        raise ValueError(f"steps={options.steps} and workers={options.workers} must be at least 1")
    extra, seeds, root = options.settings.split(), parse_seeds(options.seeds), Path(options.out)
    if not any(word.startswith("data.path=") for word in extra):
        make_data()
    sections = {name: jobs_of(name, root, seeds, options.steps, extra) for name in parse_sections(options.sections)}
    run_all([job for jobs in sections.values() for own in jobs.values() for job in own], options.workers)
    found = {name: {row: [job.result() for job in own] for row, own in jobs.items()} for name, jobs in sections.items()}
    report(options, seeds, found, root)


def parse_seeds(words: str) -> list[int]:
    """Seeds such as 0,1,2. Raises `ValueError` for others."""
    if not all(word.isdecimal() for word in words.split(",")):
        raise ValueError(f"seeds={words} must be whole numbers parted by commas, such as 0,1,2")
    return [int(word) for word in dict.fromkeys(words.split(","))]


def parse_sections(words: str) -> list[str]:
    """Names out of SECTIONS. Raises `ValueError` for another, or where a teacher would be missing."""
    names = words.split(",")
    for name in names:
        if name not in SECTIONS:
            raise unknown("section", name, list(SECTIONS), f" Use {', '.join(SECTIONS)}.")
    if "losses" in names and "table_1" not in names:
        raise ValueError(f"sections={words}: losses needs table_1, whose {TEACHER} is the teacher of two of them")
    return names


def make_data() -> None:
    """The mammals, if they are not there."""
    from data_prep.wordnet.hypernyms import WordNetOptions, build

    if not DATA.exists():
        build(WordNetOptions(out=str(DATA), subtree="mammal.n.01", test_size=200))


def jobs_of(section: str, root: Path, seeds: Sequence[int], steps: int, extra: Sequence[str]) -> dict[str, list[Job]]:
    """The jobs of a section, row by row."""
    return {
        name: [job_of(name, row, root, seed, steps, TEACHER, extra) for seed in seeds]
        for name, row in SECTIONS[section].items()
    }


Found = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def report(options: Options, seeds: Sequence[int], found: Found, root: Path) -> None:
    """Write tables.json and the figure, and print tables and verdicts."""
    metrics, judged = metrics_of(found), judged_of(found)
    record = {
        "seeds": list(seeds),
        "steps": options.steps,
        "settings": options.settings,
        "machine": {"processors": os.cpu_count(), "runs_at_a_time": options.workers},
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "sections": found,
        "verdicts": [verdict.to_json() for verdict in judged],
    }
    write_whole(root / "tables.json", json.dumps(record, indent=1) + "\n")
    print(shown(seeds, found))
    if "table_1" in found:
        from examples.tables.figure import plot_table

        plot_table(metrics, len(seeds), root / "table_1.png")
    print(f"\nall results: {root / 'tables.json'}")


def shown(seeds: Sequence[int], found: Found) -> str:
    """The tables of the sections that there are, and the verdicts on the paper's claims."""
    spreads = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    parts = [f"\n{TITLES[name]}, test split, % ({spreads}):\n\n{table(name, rows)}" for name, rows in found.items()]
    judged = judged_of(found)
    if judged:
        parts.append("\nThe paper's claims (differences in points, a seed each; above 0 as claimed):\n")
        parts += [f"- {verdict.line()}" for verdict in judged]
    return "\n".join(parts)


def judged_of(found: Found) -> list[Verdict]:
    """Verdicts, where both of the paper's tables are there."""
    return verdicts(metrics_of(found)) if {"table_1", "table_3"} <= found.keys() else []


def metrics_of(found: Found) -> dict[str, list[Mapping[str, float]]]:
    """Row to its metrics, a seed each."""
    return {row: [one["metrics"] for one in own] for rows in found.values() for row, own in rows.items()}


def table(section: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The section's rows in markdown; seconds are the processor time of training."""
    from stoical.evaluation.metrics import metrics_among
    from stoical.reporting.tables import markdown

    names, within = SHORT if section in ("losses", "beside") else (COLUMNS, [])
    known = {metric.name: metric.column for metric in metrics_among([*names, *within])}
    titles = [known[name] for name in names] + [f"{known[name]}, listed" for name in within]
    body = [["", *titles, "training (s)"]]
    for name, runs in rows.items():
        cells = [percent(runs, "metrics", column) for column in names]
        cells += [percent(runs, "listed", column) for column in within]
        seconds = spread([run["train_seconds"] for run in runs], ".0f")
        body.append([SECTIONS[section][name].title, *cells, seconds])
    return markdown(body)


def percent(runs: Sequence[Mapping[str, Any]], kind: str, metric: str) -> str:
    """Mean and spread of a metric, per cent."""
    return spread([run[kind][metric] for run in runs], ".2f" if metric == "ndcg" else ".1f", 100)


if __name__ == "__main__":
    sys.exit(execute(Command(__doc__ or "", lambda given: run(given.options), Options, bare=True), sys.argv[1:]))
