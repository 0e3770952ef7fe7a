"""Block 2: the same question with definitions that are exact, on tasks where something can be learned.

Each method is tuned on replications of its own, three trials each, and then trained and measured on the study's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stoical.common.arrays import Floats
from stoical.encoding.packed_batch import PackedBatch
from stoical.studies.mismatch.measures import TestQueries, joined, measured, references, tests_of
from stoical.studies.mismatch.methods import Method, Trial, methods
from stoical.studies.mismatch.settings import Generator, MismatchSettings
from stoical.studies.mismatch.training import Task, part_of, train
from stoical.studies.mismatch.worlds import generator, similar_world
from stoical.trie.node_weights import TargetSettings

WORLDS, TUNING = 20, 21  # streams of random numbers
BY = "ndcg"  # what tuning looks at
COMPARED = (  # in the other settings of generator, parameters and length
    "teacher forcing",
    "scheduled sampling",
    "consistency, literal",
    "every node, mass",
    "distillation, reverse",
)


@dataclass(frozen=True)
class Variant:
    """One setting of the task: how docIDs are made, whether positions share parameters, tokens of a docID."""

    generator: Generator
    shared: bool
    length: int

    @property
    def name(self) -> str:
        """As files and tables have it."""
        return f"{self.generator}, {'shared' if self.shared else 'by position'}, {self.length} tokens"


def main_variant(settings: MismatchSettings) -> Variant:
    """The one that all methods run on."""
    return Variant(settings.exact.generator, settings.exact.shared, settings.length)


def other_variants(settings: MismatchSettings) -> list[Variant]:
    """Both generators with both kinds of parameters, and every length; the main one among them."""
    main = main_variant(settings)
    kinds: tuple[Generator, ...] = ("hierarchical", "iid")
    found = [replace(main, generator=kind, shared=shared) for kind in kinds for shared in (False, True)]
    found += [replace(main, length=length) for length in settings.exact.every_length()]
    return list(dict.fromkeys([main, *found]))


class Bench:
    """A variant with its replications packed: what trials run on. Batches are kept, by the loss that they weigh."""

    def __init__(self, settings: MismatchSettings, variant: Variant, stream: int, replications: int) -> None:
        exact = settings.exact
        worlds = [
            similar_world(
                generator(settings.seed, stream, number),
                variant.generator == "hierarchical",
                settings.documents,
                variant.length,
                settings.vocabulary,
                exact.queries + exact.tested,
                exact.relevant,
                exact.features,
                exact.noise,
            )
            for number in range(replications)
        ]
        own = replace(exact, shared=variant.shared)
        self.task = Task(worlds, own, settings.vocabulary, settings.seed + stream)
        self._batches: dict[tuple[str, bool], list[PackedBatch]] = {}

    @cached_property
    def tests(self) -> list[TestQueries]:
        """The test queries."""
        return tests_of(self.task)

    def batches(self, loss: TargetSettings, negatives: bool) -> list[PackedBatch]:
        """The training queries with the weights of a loss."""
        key = str(loss), negatives
        if key not in self._batches:
            self._batches[key] = self.task.batches(loss, negatives)
        return self._batches[key]

    def tried(self, trial: Trial, method: Method) -> dict[str, Floats]:
        """Train and measure, all replications at once."""
        return measured(train(self.task, trial, self.batches(trial.loss, method.negatives)), self.tests)

    def tried_alone(self, trial: Trial, method: Method, replications: int) -> dict[str, Floats]:
        """Train and measure the first replications one by one."""
        found = []
        for number in range(replications):
            task = part_of(self.task, number)
            model = train(task, trial, task.batches(trial.loss, method.negatives))
            found.append(measured(model, tests_of(task)))
        return joined(found)

    def references(self) -> dict[str, dict[str, Floats]]:
        """Rows that nothing was trained for."""
        return references(self.tests, self.task.vocabulary)


class Benches:
    """The benches of a study, made when they are first used; one at a time is kept."""

    def __init__(self, settings: MismatchSettings) -> None:
        self.settings = settings
        self._kept: tuple[tuple[Variant, int], Bench] | None = None
        self._tuning: Bench | None = None

    def of(self, variant: Variant, replications: int) -> Bench:
        """The bench of a variant on the study's own replications."""
        key = variant, replications
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # free the other one first
            self._kept = key, Bench(self.settings, variant, WORLDS, replications)
        return self._kept[1]

    @property
    def tuning(self) -> Bench:
        """The bench of tuning: the main variant, on seeds of its own."""
        if self._tuning is None:
            exact = self.settings.exact
            self._tuning = Bench(self.settings, main_variant(self.settings), TUNING, exact.tuning)
        return self._tuning


def tune(benches: Benches, name: str) -> dict[str, Floats]:
    """[3] what each trial of a method reached in tuning."""
    settings = benches.settings
    method = methods(settings.length)[name]
    trials = method.trials(settings.exact.beta)
    return {BY: np.array([benches.tuning.tried(trial, method)[BY].mean() for trial in trials])}


def run_method(benches: Benches, variant: Variant, replications: int, name: str, chosen: int) -> dict[str, Floats]:
    """Every measure of a method by replication, after its `chosen` trial."""
    settings = benches.settings
    method = methods(variant.length)[name]
    trial = method.trials(settings.exact.beta)[chosen]
    bench = benches.of(variant, replications)
    if method.alone:
        return bench.tried_alone(trial, method, min(replications, settings.exact.tuning))
    return bench.tried(trial, method)
