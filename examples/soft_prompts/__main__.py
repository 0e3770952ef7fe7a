"""`python -m examples.soft_prompts`: what makes a frozen model write fifty texts exactly, objective by objective.

Trains prompts for 17 phrases, 17 sentences and 16 strings of letters side by side, by every objective and by the
combinations that the paper recommends, seed by seed, and has every decoder write with them; then texts of growing
length by the number of vectors, and two rows in bfloat16. A run that is done is not done again, and one that was
interrupted goes on. results.json has all of it; three figures lie beside.
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
from examples.soft_prompts.rows import ROWS
from examples.soft_prompts.runs import Job, run_all
from stoical.commands.shell import Command, execute
from stoical.common.fields import unknown
from stoical.common.files import write_whole
from stoical.common.options import option
from stoical.soft_prompts.settings import DECODERS

PACKAGES = ("stoical", "torch", "transformers", "peft")
HALF = ("cross_entropy", "growing")  # rows that are also run in bfloat16
PARTS = ("table", "horizon", "bfloat16")
Results = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass
class Options:
    """What the user can set; `--help` prints it."""

    model: str = option("runs/glosses", "the frozen model: a directory; made by model.name=glosses if it is not there")
    download: bool = option(False, "let NLTK download WordNet, which that model is trained on, if it is missing")
    out: str = option("runs/soft_prompts", "where runs, results.json and figures go")
    rows: str = option("; ".join(ROWS), "which rows, parted by semicolons")
    parts: str = option(",".join(PARTS), "which parts of the study")
    seeds: str = option("0,1,2", "seeds of the table's prompts and draws; the other parts have the first one")
    steps: int = option(200, "steps of every run")
    vectors: int = option(4, "vectors of a prompt, in the table")
    horizon: str = option("1,2,4,8", "vectors of a prompt, in the horizon")
    workers: int = option(1, "runs at a time, a thread each")


def run(options: Options) -> None:
    """Do what is missing, and report."""
    parts = jobs_of(options)
    if not (Path(options.model) / "config.json").is_file():
        from stoical.soft_prompts.gloss_model import train_gloss_model

        train_gloss_model(Path(options.model), options.download, f"model={options.model}", way_out="download=true")
    every = [job for own in parts.values() for jobs in own.values() for job in jobs]
    run_all(sorted(every, key=lambda job: job.seed), options.workers)  # a whole study of one seed, then the next
    found = {name: {row: [job.result() for job in jobs] for row, jobs in own.items()} for name, own in parts.items()}
    report(options, found)


def jobs_of(options: Options) -> dict[str, dict[str, list[Job]]]:
    """The jobs, part by part and row by row. Raises `ValueError` for an unknown row or part."""
    rows, parts = [row.strip() for row in options.rows.split(";")], options.parts.split(",")
    for name, known in ((row, [*ROWS]) for row in rows):
        if name not in known:
            raise unknown("row", name, known)
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    seeds, counts = ([int(word) for word in words.split(",")] for words in (options.seeds, options.horizon))
    fixed = {"steps": options.steps, "model": options.model, "root": options.out}

    def table(row: str) -> list[Job]:
        return [Job("table", row, seed, options.vectors, **fixed) for seed in seeds]

    def horizon(row: str) -> list[Job]:
        return [Job("horizon", row, seeds[0], count, **fixed) for count in counts]

    def half(row: str) -> list[Job]:
        return [Job("bfloat16", row, seeds[0], options.vectors, **fixed)]

    every = {
        "table": {row: table(row) for row in rows},
        "bfloat16": {row: half(row) for row in HALF if row in rows},
        "horizon": {row: horizon(row) for row in rows},
    }
    return {name: own for name, own in every.items() if name in parts}


def report(options: Options, found: Mapping[str, Results]) -> None:
    """Write results.json and the figures, and print the tables."""
    record = {
        "options": {name: getattr(options, name) for name in ("model", "steps", "vectors", "seeds")},
        "machine": {"processors": os.cpu_count(), "runs_at_a_time": options.workers},
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        **{name: {row: [dict(one) for one in own] for row, own in rows.items()} for name, rows in found.items()},
    }
    root = Path(options.out)
    write_whole(root / "results.json", json.dumps(record) + "\n")
    print(f"\n{shown(record)}")
    draw(found, root)
    print(f"\nall results: {root / 'results.json'}")


def shown(record: Mapping[str, Any]) -> str:
    """The tables of what results.json has."""
    found = {name: record[name] for name in PARTS if name in record}
    parts = []
    if "table" in found:
        options = record["options"]
        parts += [
            f"Texts written exactly, %, {options['vectors']} vectors, {options['steps']} steps at most:",
            table(found["table"]),
            "The same by kind of text, greedily, and what the teacher-forced argmax has right, %:",
            kinds_table(found["table"]),
        ]
    parts.append("\n".join(agreement(found)))
    if "horizon" in found:
        parts.append("Longest text that was written exactly, in tokens with EOS, by vectors of the prompt:")
        parts.append(horizon_table(found["horizon"]))
    return "\n\n".join(parts)


def table(rows: Results) -> str:
    """Exact match by row and decoder; steps and seconds."""
    from stoical.reporting.tables import markdown

    body = [["", *DECODERS, "found", "median step", "time (s)"]]
    for name, runs in rows.items():
        shares = [spread([_share(run["decoders"][decoder]) for run in runs], ".1f", 100) for decoder in DECODERS]
        found = spread([_share([step >= 0 for step in run["found"]]) for run in runs], ".1f", 100)
        steps = spread([_median_step(run) for run in runs], ".0f")
        body.append([name, *shares, found, steps, spread([run["train_seconds"] for run in runs], ".0f")])
    return markdown(body)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _median_step(run: Mapping[str, Any]) -> float:
    """The step by which more than half of the texts were found; the last one where no more than half were."""
    steps = sorted(step if step >= 0 else run["job"]["steps"] for step in run["found"])
    return float(steps[len(steps) // 2])


def kinds_table(rows: Results) -> str:
    """Greedy exact match by kind of text, beside the teacher-forced accuracy of the same prompts."""
    from stoical.reporting.tables import markdown

    names = list(dict.fromkeys(next(iter(rows.values()))[0]["kinds"]))
    body = [["", *names, "right in a row", "teacher-forced"]]
    for name, runs in rows.items():
        cells = []
        for kind in names:
            shares = []
            for one in runs:
                own = zip(one["kinds"], one["decoders"]["greedy"], strict=True)
                shares.append(_share([exact for each, exact in own if each == kind]))
            cells.append(spread(shares, ".1f", 100))
        prefix = [_mean_prefix(one) for one in runs]
        forced = [sum(one["teacher_forced"]) / len(one["teacher_forced"]) for one in runs]
        body.append([name, *cells, spread(prefix, ".1f", 100), spread(forced, ".1f", 100)])
    return markdown(body)


def _mean_prefix(run: Mapping[str, Any]) -> float:
    """The mean share of a text that is written before the first error."""
    pairs = zip(run["right"], run["lengths"], strict=True)
    return sum(right / length for right, length in pairs) / len(run["right"])


def agreement(found: Mapping[str, Results]) -> list[str]:
    """How often greedy exact match and a right argmax at every position, teacher-forced, are the same, by type."""
    lines = []
    for title, parts in (("float32", ("table", "horizon")), ("bfloat16", ("bfloat16",))):
        runs = [one for part in parts for own in found.get(part, {}).values() for one in own]
        compared = sum(row["compared"] for one in runs for row in one["log"])
        agree = sum(row["agree"] for one in runs for row in one["log"])
        if runs:
            most = max(one["difference"] for one in runs)
            lines.append(
                f"{title}: greedy exact match equals a right argmax everywhere in {agree:,} of {compared:,} checks; "
                f"training forward and generate differ by up to {most:.2g} in a logit"
            )
    return lines


def longest(run: Mapping[str, Any]) -> int:
    """The longest text of a run that was written exactly; 0 for none."""
    pairs = zip(run["lengths"], run["right"], strict=True)
    return max((length for length, right in pairs if right == length), default=0)


def horizon_table(rows: Results) -> str:
    """The horizon by row and number of vectors; a dash where there is no run."""
    from stoical.reporting.tables import markdown

    found = {row: {run["job"]["vectors"]: longest(run) for run in runs} for row, runs in rows.items()}
    counts = sorted({count for own in found.values() for count in own})
    body = [["", *map(str, counts)]]
    body += [[row, *(str(own.get(count, "–")) for count in counts)] for row, own in found.items()]
    return markdown(body)


def draw(found: Mapping[str, Results], root: Path) -> None:
    """The figures of what was run."""
    from examples.soft_prompts import figures

    if "table" in found:
        figures.by_step(found["table"], root / "by_step.png")
        figures.gap(found["table"], root / "gap.png")
    if "horizon" in found:
        own = {row: {one["job"]["vectors"]: longest(one) for one in runs} for row, runs in found["horizon"].items()}
        figures.horizons(own, root / "horizon.png")


if __name__ == "__main__":
    sys.exit(execute(Command(__doc__ or "", lambda given: run(given.options), Options, bare=True), sys.argv[1:]))
