"""Methods side by side: each trains on from the same weights for as many steps, and becomes a row of a table.

A run is whole or made anew, so an interrupted table goes on with the run it was in.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from stoical.commands import evaluate, self_train, train
from stoical.reporting.tables import markdown

Metrics = Mapping[str, float]
BATCH = 32  # queries a step, as the overlay `small` has it


@dataclass(frozen=True, slots=True)
class Start:
    """Where a method begins and what it may use: a checkpoint, or None for weights from scratch."""

    checkpoint: Path | None
    output: Path
    seed: int
    steps: int

    def words(self, steps: int | None = None) -> list[str]:
        """Settings that all methods share; `steps` if a part of them is asked for."""
        count = steps or self.steps
        own = [
            f"seed={self.seed}",
            f"output={self.output}",
            f"training.max_steps={count}",
            f"training.save_steps={count}",
        ]
        if self.checkpoint is not None:
            own.append("training.warmup_steps=0.1")  # of each part
        return [*own, "training.eval_strategy=no", "training.save_total_limit=1"]

    def weights(self) -> list[str]:
        """Settings that make a recipe start at the checkpoint's weights."""
        if self.checkpoint is None:
            return []
        names = [f"model.name={self.checkpoint}", f"tokenizer.name={self.checkpoint}"]
        return [*names, "model.from_scratch=false", "tokenizer.vocab_size=null", "training.learning_rate=1e-3"]


Method = Callable[[Start], None]


def fine_tuned(recipe: str, *settings: str) -> Method:
    """`stoical train` with a recipe and its overlays."""
    return lambda start: train.main([f"recipe={recipe}", *start.words(), *start.weights(), *settings])


def self_trained(recipe: str, *settings: str, iterations: int = 2) -> Method:
    """`stoical self-train` from the checkpoint on; its iterations share the steps."""

    def method(start: Start) -> None:
        loop = [f"self_training.iterations={iterations}", f"self_training.start={start.checkpoint}"]
        words = [f"recipe={recipe}", *start.words(start.steps // iterations), "training.learning_rate=1e-3"]
        self_train.main([*words, *loop, *settings])

    return method


def preferred(tool: ModuleType, *settings: str, iterations: int = 1) -> Method:
    """`stoical dpo` or `stoical spin` (`tool`) from the checkpoint on; their iterations share the steps.

    A pair is two texts, so half as many make a step of as many tokens.
    """

    def method(start: Start) -> None:
        words = [f"checkpoint={start.checkpoint}", *start.words(start.steps // iterations), *settings]
        tool.main([*words, f"global_batch_size={BATCH // 2}", "training.learning_rate=3e-6"])

    return method


@dataclass(frozen=True, slots=True)
class Table:
    """root: where runs go. methods: by name; the first is the reference. base: makes the weights all start from.

    evaluation: more words for `stoical evaluate`. read: from an evaluation's directory. columns: titles, of shares;
    those with a falling arrow are better when lower.
    """

    root: Path
    base: Method
    base_steps: int
    methods: Mapping[str, Method]
    evaluation: Sequence[str]
    read: Callable[[Path], Metrics]
    columns: Mapping[str, str]

    def make(self, seeds: Sequence[int], steps: int) -> str:
        """Train and evaluate what is missing; the table, in markdown, whose figures table.json has seed by seed."""
        for seed in seeds:
            base = self._base(seed)
            self._run(self.base, Start(None, base, seed, self.base_steps))
            for name, method in self.methods.items():
                start = Start(base / f"checkpoint-{self.base_steps}", self.root / f"{slug(name)}-{seed}", seed, steps)
                self._run(method, start)
        rows = {name: self._found(slug(name), seeds) for name in self.methods}
        (self.root / "table.json").write_text(
            json.dumps({"seeds": list(seeds), "steps": steps, "rows": rows}, indent=1)
        )
        start = {"where all start": self._found("base", seeds)}
        return self.markdown(rows, start, self._references(seeds[0]))

    def markdown(
        self,
        rows: Mapping[str, Sequence[Metrics]],
        start: Mapping[str, Sequence[Metrics]] | None = None,
        references: Sequence[Sequence[str]] = (),
    ) -> str:
        """Rows of figures a seed, as table.json has them, against the first; `start`, which took no time, above."""
        reference = next(iter(rows.values()))
        body = [[name, *self._cells(found, reference), ""] for name, found in (start or {}).items()]
        body += [[name, *self._cells(found, reference), ratio(found, reference)] for name, found in rows.items()]
        return markdown([["", *self.columns.values(), "time (ratio)"], *body, *references])

    def report(self, seeds: str, steps: int) -> None:
        """Make and print the table, for seeds such as 0,1,2."""
        numbers = [int(seed) for seed in seeds.split(",")]
        table = self.make(numbers, steps)
        print(f"\nTest split, % (mean ± standard deviation over {len(numbers)} seeds):\n\n{table}")

    def _base(self, seed: int) -> Path:
        return self.root / f"base-{seed}"

    def _run(self, method: Method, start: Start) -> None:
        """Train and evaluate, unless that was done; keeps the processor seconds of the training."""
        if (start.output / "seconds.json").exists():
            return
        shutil.rmtree(start.output, ignore_errors=True)
        print(f"==> {start.output}", flush=True)
        started = time.process_time()
        method(start)
        seconds = time.process_time() - started
        evaluate.main([f"checkpoint={start.output}", *self.evaluation])
        (start.output / "seconds.json").write_text(json.dumps(seconds))

    def _found(self, folder: str, seeds: Sequence[int]) -> list[Metrics]:
        runs = [self.root / f"{folder}-{seed}" for seed in seeds]
        seconds = [json.loads((run / "seconds.json").read_text()) for run in runs]
        read = [self.read(evaluated(run)) for run in runs]
        own = [{column: found[column] for column in self.columns} for found in read]
        return [{**found, "seconds": spent} for found, spent in zip(own, seconds, strict=True)]

    def _references(self, seed: int) -> list[list[str]]:
        """The rows that evaluations have for orders that no model made, those with some of the columns."""
        path = evaluated(self._base(seed)) / "metrics.json"
        rows = json.loads(path.read_text()).get("references", {}) if path.is_file() else {}
        found = []
        for name, own in rows.items():
            known = {
                column: spread([own[column]], _form(self.columns[column]), 100) for column in own.keys() & self.columns
            }
            found += [[name, *(known.get(column, "–") for column in self.columns), ""]] * bool(known)
        return found

    def _cells(self, found: Sequence[Metrics], reference: Sequence[Metrics]) -> list[str]:
        """Mean and spread; in bold if better than the reference in every seed, in italics if worse in every seed."""
        cells = []
        for column, title in self.columns.items():
            sign = -1 if "↓" in title else 1
            change = [sign * (ours[column] - theirs[column]) for ours, theirs in zip(found, reference, strict=True)]
            mark = "**" if min(change) > 0 else "*" if max(change) < 0 else ""
            text = spread([run[column] for run in found], _form(title), 100)
            cells.append(f"{mark}{text}{mark}")
        return cells


def _form(title: str) -> str:
    """Digits after the point: more for nDCG, whose differences are small."""
    return ".2f" if "nDCG" in title else ".1f"


def evaluated(run: Path) -> Path:
    """Where a run's evaluation is: with the last of its iterations, if it has several."""
    return max(run.glob("iteration-*/eval"), default=run / "eval")


def slug(name: str) -> str:
    """A row's name as a folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def spread(values: Sequence[float], form: str, scale: float = 1) -> str:
    """Mean and sample standard deviation; the value alone where there is one."""
    scaled = scale * np.asarray(values)
    return f"{scaled.mean():{form}} ± {scaled.std(ddof=1):{form}}" if len(scaled) > 1 else f"{scaled[0]:{form}}"


def ratio(found: Sequence[Metrics], reference: Sequence[Metrics]) -> str:
    """Processor seconds of the training over the reference's."""
    return spread([own["seconds"] / theirs["seconds"] for own, theirs in zip(found, reference, strict=True)], ".2f")
