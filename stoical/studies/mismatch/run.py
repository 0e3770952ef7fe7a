"""The study as a list of jobs, each of which leaves a part on disk: an interrupted study goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.differences import flat
from stoical.common.files import check_writable, json_object, write_whole
from stoical.common.progress import progress
from stoical.studies.mismatch import compat
from stoical.studies.mismatch.exact import (
    BY,
    COMPARED,
    Benches,
    Variant,
    main_variant,
    other_variants,
    run_method,
    tune,
)
from stoical.studies.mismatch.methods import NAMES, methods
from stoical.studies.mismatch.settings import MismatchSettings

SETTINGS = "settings.json"
PARTS = "parts"
FREE = ("output", "quick", "blocks", "methods")  # what may differ between runs into one directory


@dataclass(frozen=True, slots=True)
class Job:
    """What to do for one part, by the part's name; its result is arrays by name, nested as it likes."""

    name: str
    work: Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a study on disk."""

    folder: Path

    def path(self, name: str) -> Path:
        """Where a part is."""
        return self.folder / f"{''.join(letter if letter.isalnum() else '_' for letter in name)}.json"

    def write(self, name: str, values: dict[str, Any], seconds: float) -> None:
        """Write a part whole; `seconds` of processor time that it took."""
        write_whole(self.path(name), json.dumps({"name": name, "seconds": seconds, "values": _lists(values)}))

    def read(self, name: str) -> dict[str, Any]:
        """The values of a part, with arrays for lists. Raises `ValueError` where its file is damaged."""
        found: dict[str, Any] = _arrays(_part(self.path(name))["values"])
        return found

    def seconds(self) -> float:
        """Processor seconds of all parts."""
        return float(sum(_part(path)["seconds"] for path in self.folder.glob("*.json")))


def _part(path: Path) -> dict[str, Any]:
    """What `Parts.write` wrote. Raises `ValueError` where that is something else."""
    part = json_object(path)
    if not (isinstance(part.get("values"), dict) and isinstance(part.get("seconds"), int | float)):
        raise ValueError(f"{path} is damaged; delete it, and the same command makes it again")
    return part


def _lists(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _lists(value) for key, value in values.items()}
    return [float(f"{x:.7g}") for x in values] if values.ndim == 1 else [_lists(row) for row in values]


def _arrays(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _arrays(value) for key, value in values.items()}
    return np.array(values, dtype=np.float64)


def prepare(settings: MismatchSettings) -> Parts:
    """The output directory, made or taken up. Raises `ValueError` where it is something else's, or other settings'."""
    output = Path(settings.output)
    check_writable(output)
    own = {key: value for key, value in asdict(settings).items() if key not in FREE}
    if output.exists() and any(output.iterdir()):
        if not (output / SETTINGS).is_file():
            raise ValueError(f"output={output} holds something else than a mismatch study; give another directory")
        before, now = flat(json_object(output / SETTINGS)), flat(own)
        changed = next((key for key in now if now[key] != before.get(key)), None)
        if changed is not None:
            raise ValueError(
                f"output={output} is a study with {changed}={before.get(changed)}, not {now[changed]}; give another "
                f"directory, or the settings of {output / SETTINGS}"
            )
    (output / PARTS).mkdir(parents=True, exist_ok=True)
    write_whole(output / SETTINGS, json.dumps(own, indent=2) + "\n")
    return Parts(output / PARTS)


def carry_out(settings: MismatchSettings, parts: Parts) -> None:
    """Do all jobs whose part is missing, under one progress bar."""
    missing = [job for job in jobs(settings, parts) if not parts.path(job.name).exists()]
    for job in progress(missing, "mismatch study, jobs"):
        started = time.process_time()
        values = job.work()
        parts.write(job.name, values, time.process_time() - started)


def jobs(settings: MismatchSettings, parts: Parts) -> Iterator[Job]:
    """Everything that the study needs, in order."""
    if 1 in settings.chosen_blocks():
        for first in range(0, settings.compat.replications, compat.CHUNK):
            yield Job(compat_part(first), partial(compat.simulate, settings, first))
    if 2 in settings.chosen_blocks():
        yield from _exact_jobs(settings, parts)


def compat_part(first: int) -> str:
    """The part of the replications from `first` on."""
    return f"block 1, from {first}"


def tuning_part(name: str) -> str:
    """The part with a method's trials."""
    return f"tuning, {name}"


def method_part(variant: Variant, name: str) -> str:
    """The part with a method's measures."""
    return f"{variant.name}: {name}"


def _exact_jobs(settings: MismatchSettings, parts: Parts) -> Iterator[Job]:
    benches, main, known = Benches(settings), main_variant(settings), methods(settings.length)
    chosen = settings.chosen_methods(NAMES)
    for name in dict.fromkeys([*chosen, *COMPARED]):
        if not known[name].alone:
            yield Job(tuning_part(name), partial(tune, benches, name))
    for variant in other_variants(settings):
        count = settings.exact.replications if variant == main else settings.exact.variants
        yield Job(
            method_part(variant, "references"),
            lambda variant=variant, count=count: benches.of(variant, count).references(),  # type: ignore[misc]
        )
        for name in dict.fromkeys([*chosen, *COMPARED]) if variant == main else COMPARED:
            yield Job(method_part(variant, name), partial(_run, benches, variant, count, name, parts))


def _run(benches: Benches, variant: Variant, count: int, name: str, parts: Parts) -> dict[str, Any]:
    return run_method(benches, variant, count, name, best_trial(benches.settings, parts, name))


def best_trial(settings: MismatchSettings, parts: Parts, name: str) -> int:
    """Which of a method's trials did best in tuning; 0 where there was one trial."""
    if methods(settings.length)[name].alone:
        return 0
    return int(parts.read(tuning_part(name))[BY].argmax())
