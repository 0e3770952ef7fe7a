"""One run of the race: an entrant on a dataset with a seed, for so long. It is kept in a file, and not run again."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.measure import environment
from benchmarks.race.clock import Marks
from benchmarks.race.course import COURSES, Start
from benchmarks.race.entrants import ENTRANTS
from benchmarks.race.options import Plan
from stoical.common.files import json_object, write_whole


@dataclass(frozen=True, slots=True)
class Leg:
    """What is run. horizon: a rival's time in multiples of stoical's; None for stoical's own runs."""

    dataset: str
    system: str
    seed: int
    horizon: float | None

    @property
    def name(self) -> str:
        """Of its file."""
        suffix = "" if self.horizon is None else f"-x{self.horizon:g}"
        return f"{self.dataset}-{self.system}-{self.seed}{suffix}"


def legs(plan: Plan, dataset: str) -> list[Leg]:
    """All runs on a dataset: seed by seed, stoical first."""
    return [
        Leg(dataset, system, seed, horizon)
        for seed in plan.seeds
        for system in plan.systems
        for horizon in ([None] if ENTRANTS[system].ours else plan.horizons)
    ]


def packages(system: str) -> dict[str, str]:
    """The versions of what an entrant runs on. Raises `ValueError` where one of them is not installed."""
    try:
        return {name: version(name) for name in ("torch", "transformers", *ENTRANTS[system].needs)}
    except PackageNotFoundError as error:
        raise ValueError(
            f"systems: {system} needs {error.name}: pip install 'stoical[race]', or leave the system out"
        ) from error


def settings(leg: Leg, plan: Plan, start: Start) -> dict[str, Any]:
    """All that must be the same for a kept run to count."""
    course, tuned = COURSES[leg.dataset], ENTRANTS[leg.system].tuned
    return {
        "recipe": list(course.list_mle if leg.system == "stoical_list_mle" else course.recipe),
        "tuned": asdict(tuned[leg.dataset]) if tuned else None,
        "marks": plan.options.marks,
        "budget": plan.options.budget if tuned else None,
        "quick": plan.options.quick,
        "steps": start.recipe.training["max_steps"],
        "data_sha256": start.data_sha256,
        "versions": packages(leg.system),
    }


def kept(leg: Leg, plan: Plan, start: Start) -> dict[str, Any] | None:
    """The record of a run that was made before. Raises `ValueError` where it was made with other settings."""
    path = Path(plan.options.runs) / f"{leg.name}.json"
    if not path.is_file():
        return None
    record, wanted = json_object(path), settings(leg, plan, start)
    for key, value in wanted.items():
        if record.get("settings", {}).get(key) != value:
            raise ValueError(
                f"{path} was made with another {key} ({record.get('settings', {}).get(key)}, and not {value}): "
                "remove it, or give runs= another directory"
            )
    return record


def run(leg: Leg, plan: Plan, start: Start, lap: float | None) -> dict[str, Any]:
    """Run a leg and keep its record. lap: the seconds that stoical took with this seed, for a rival."""
    entrant, began = ENTRANTS[leg.system], time.process_time()
    if entrant.ours:
        every = max(1, start.recipe.training["max_steps"] // plan.options.marks)
        marks = Marks(dict, every_steps=every)
    else:
        assert lap is not None and leg.horizon is not None
        budget = min(plan.options.budget, leg.horizon * lap)
        marks = Marks(dict, every_seconds=budget / plan.options.marks, budget=budget)
    entrant.train(leg.dataset, start, marks)
    record = {
        **asdict(leg),
        "budget": marks.budget,
        "other_seconds": time.process_time() - began - marks.marks[-1].seconds,
        "settings": settings(leg, plan, start),
        "environment": environment(),
        "marks": marks.to_json(),
    }
    path = Path(plan.options.runs) / f"{leg.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1) + "\n")
    return record


def run_all(plan: Plan, dataset: str) -> list[dict[str, Any]]:
    """All runs on a dataset, those that are there already as they are."""
    records, laps, starts = [], dict[int, float](), dict[int, Start]()
    for leg in legs(plan, dataset):
        start = starts.setdefault(leg.seed, Start.of(dataset, leg.seed, plan.options.quick, plan.options.steps))
        record = kept(leg, plan, start)
        if record is None:
            print(f"{leg.name} ...", flush=True)
            record = run(leg, plan, start, laps.get(leg.seed))
        last = record["marks"][-1]
        if leg.system == "stoical":
            laps[leg.seed] = last["seconds"]
        shown = "  ".join(f"{name} {100 * value:.1f}" for name, value in last["metrics"].items())
        print(
            f"{leg.name}: {last['seconds']:.0f} s, {last['step']} steps, {last['tokens']:,} tokens: {shown} %",
            flush=True,
        )
        records.append(record)
    return records
