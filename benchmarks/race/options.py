"""What the user can set, checked and taken apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from benchmarks.race.course import COURSES
from benchmarks.race.entrants import ENTRANTS
from stoical.common.fields import unknown
from stoical.common.options import option

T = TypeVar("T")


@dataclass
class RaceOptions:
    """What the user can set; `--help` prints it."""

    datasets: str = option(",".join(COURSES), "which datasets; one that is not there is skipped, and the tables say so")
    systems: str = option(
        ",".join(ENTRANTS), "which systems; stoical is always run, since it sets times and thresholds"
    )
    seeds: str = option("0,1,2", "seeds of weights, orders and draws")
    horizons: str = option(
        "1,5",
        "how long a rival trains, in multiples of what stoical took with that seed: a run for each, since a run's "
        "learning rate falls to 0 at its end; the better of them counts",
    )
    steps: int = option(
        0, "optimizer steps of stoical, a twelfth of them its warm-up, for a shorter race of all; 0: the recipe's"
    )
    budget: float = option(1200.0, "the most processor seconds of one run of a rival")
    marks: int = option(40, "evaluations in a run, beside that of the untrained model")
    scored: int = option(16, "queries of the test split to score in every round of the scoring race; 0: no such race")
    scoring_budget: float = option(60.0, "seconds of the scoring race on a dataset; at least 3 rounds")
    quick: bool = option(False, "a tiny model and runs of a second, to see that everything works")
    runs: str = option("runs/race", "where every run is kept: given again, the command goes on from what is there")
    out: str = option("race", "results go to benchmarks/results/<out>.json and .md")
    figure: str = option("docs/figures/race.png", "where the figure goes")


@dataclass(frozen=True, slots=True)
class Plan:
    """The options, taken apart and checked."""

    datasets: list[str]
    systems: list[str]
    seeds: list[int]
    horizons: list[float]
    options: RaceOptions

    @classmethod
    def of(cls, options: RaceOptions) -> Plan:
        """Raises `ValueError` naming the option that makes no sense."""
        if options.quick:
            options = replace(
                options, horizons="1", budget=1.0, marks=2, scored=min(2, options.scored), scoring_budget=0.0
            )
        datasets = words("datasets", options.datasets, COURSES)
        systems = words("systems", options.systems, ENTRANTS)
        seeds = numbers("seeds", options.seeds, int, lambda seed: 0 <= seed < 2**32, "whole numbers from 0")
        horizons = numbers("horizons", options.horizons, float, lambda x: 0 < x < math.inf, "numbers above 0")
        for name, least in (("marks", 1), ("scored", 0), ("steps", 0)):
            if getattr(options, name) < least:
                raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
        if not 0 < options.budget < math.inf:
            raise ValueError(f"budget={options.budget} must be a number of seconds above 0")
        return cls(datasets, ["stoical", *(name for name in systems if name != "stoical")], seeds, horizons, options)


def words(key: str, text: str, known: Collection[str]) -> list[str]:
    """The names in a list with commas."""
    found = text.split(",")
    for word in found:
        if word not in known:
            raise unknown(f"name in {key}", word, list(known))
    if len(set(found)) < len(found):
        raise ValueError(f"{key}={text} names one of them twice")
    return found


def numbers(key: str, text: str, kind: Callable[[str], T], fits: Callable[[T], bool], what: str) -> list[T]:
    """The numbers in a list with commas."""
    try:
        found = [kind(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(fits, found)) or len(set(found)) < len(found):
        raise ValueError(f"{key}={text} must be {what}, none twice, with commas between them")
    return found
