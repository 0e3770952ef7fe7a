"""The race: stoical against what one would use in its place, to the same quality and in scoring.

    python -m benchmarks.race
    python -m benchmarks.race seeds=1 systems=stoical,trainer
    python -m benchmarks.race quick=true datasets=mammals seeds=0 runs=/tmp/race

Every system trains on the same rows with the same tokenizer, from the same weights, and its marks are evaluated on the
same test queries by the same code, off the clock. Rivals: TRL's SFTTrainer on prompt + docID, with the top docID a row
or with rows drawn in proportion to 1/r^2; transformers' Trainer on one docID a row, weighted by 1/r^2;
sentence-transformers' CrossEncoder with its ListMLE loss. One torch thread; the clock is processor time.

A command that was interrupted goes on when it is given again. Several may run side by side with different seeds; one
more, with all of them, makes the tables of what they left.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, nor looked for
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks.measure import environment, write_results
from benchmarks.race.course import Start, missing
from benchmarks.race.curves import draw
from benchmarks.race.legs import packages, run_all
from benchmarks.race.options import Plan, RaceOptions
from benchmarks.race.report import tables
from benchmarks.race.scoring import score_race
from stoical.commands.shell import Command, execute, quiet_libraries
from stoical.common.files import check_writable, json_object, write_whole

COMMAND = "python -m benchmarks.race"


def scored(plan: Plan, dataset: str) -> dict[str, Any]:
    """The scoring race on a dataset, run or kept from before."""
    path = Path(plan.options.runs) / f"{dataset}-scoring-{plan.options.scored}.json"
    if path.is_file():
        return json_object(path)
    start = Start.of(dataset, plan.seeds[0], plan.options.quick)
    result = score_race(start, plan.options.scored, plan.options.scoring_budget)
    write_whole(path, json.dumps(result) + "\n")
    return result


def run(options: RaceOptions) -> None:
    """Run what is missing, and write tables and figure of all of it."""
    plan = Plan.of(options)
    check_writable(Path(options.runs))
    versions: dict[str, str] = {}
    for system in plan.systems:
        versions |= packages(system)
    torch.set_num_threads(1)
    quiet_libraries()
    warnings.filterwarnings("ignore")  # of libraries about each other
    results: dict[str, Any] = {"runs": {}, "scoring": {}, "skipped": {}}
    for dataset in plan.datasets:
        reason = missing(dataset)
        if reason is not None:
            print(f"{dataset} is skipped: {reason}")
            results["skipped"][dataset] = reason
            continue
        results["runs"][dataset] = run_all(plan, dataset)
        if plan.options.scored:
            results["scoring"][dataset] = scored(plan, dataset)
    write_results(
        options.out, COMMAND, sys.argv[1:], asdict(options), results, tables(results), environment() | versions
    )
    if results["runs"]:
        draw(results["runs"], Path(options.figure))


def main() -> int:
    """Entry point of `python -m benchmarks.race`."""
    command = Command(__doc__ or "", lambda given: run(given.options), RaceOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
