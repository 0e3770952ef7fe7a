"""Runs of the study: each trains all its texts side by side on one thread, and leaves its result as a JSON file.

`table`: a row of the table with a seed. `horizon`: a row with a number of vectors, on texts of growing length.
`bfloat16`: a row in that type. An interrupted run goes on from its last state.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.soft_prompts.rows import settings_of
from examples.soft_prompts.texts import cut_to_lengths, kinds
from stoical.common.files import json_object, write_whole
from stoical.soft_prompts.settings import DECODERS, ModelOptions


@dataclass(frozen=True, slots=True)
class Job:
    """A run: what decides its result, and where that goes."""

    kind: str
    row: str
    seed: int
    vectors: int
    steps: int
    model: str
    root: str

    @property
    def path(self) -> Path:
        """The result's file."""
        words = self.row.replace(", ", "_").replace(" ", "_")
        return Path(self.root) / f"{self.kind}-{words}-{self.vectors}-{self.seed}.json"

    @property
    def done(self) -> bool:
        """True where the result is there. Raises `ValueError` for one of other settings."""
        if not self.path.is_file():
            return False
        if json_object(self.path)["job"] != asdict(self):
            raise ValueError(f"{self.path} is a result of other settings; delete it, or give another out=")
        return True

    def result(self) -> dict[str, Any]:
        """What the run found."""
        return json_object(self.path)


def run_all(jobs: Iterable[Job], workers: int) -> None:
    """Do the jobs that are not done, `workers` at a time."""
    waiting = [job for job in jobs if not job.done]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, (job, seconds) in enumerate(zip(waiting, pool.map(carry_out, waiting), strict=True), 1):
            print(f"[{number}/{len(waiting)}] {job.path.stem}: {seconds:.0f} s of a processor", flush=True)


def carry_out(job: Job) -> float:
    """Train, write by every decoder, keep the result; processor seconds."""
    import torch

    from stoical.commands.shell import quiet_libraries
    from stoical.soft_prompts.decoders import decode, numeric_difference
    from stoical.soft_prompts.frozen import load_frozen
    from stoical.soft_prompts.targets import encode
    from stoical.soft_prompts.training import PromptTraining

    torch.set_num_threads(1)
    quiet_libraries()
    started = time.process_time()
    options = ModelOptions(job.model, dtype="bfloat16" if job.kind == "bfloat16" else "float32")
    settings = settings_of(job.row, model=options, seed=job.seed, vectors=job.vectors, steps=job.steps)
    frozen = load_frozen(options, "cpu")
    before = frozen.fingerprint()
    texts = [(kind, text) for kind, own in kinds().items() for text in own]
    encoded = cut_to_lengths(frozen.tokenizer) if job.kind == "horizon" else encode(texts, frozen.tokenizer, None)
    training = PromptTraining(frozen, encoded, settings, settings.stop_margin, job.path.with_suffix(".pt"))
    difference = numeric_difference(frozen, training.prompts, max(map(len, encoded)))
    training.stop_margin = max(settings.stop_margin, 2 * difference)
    known = training.run(shown=False)
    seconds = time.process_time() - started
    told = {}
    for name in DECODERS if job.kind == "table" else ():
        rows = decode(frozen, name, known.best, encoded)
        told[name] = [words[: len(ids)] == ids for words, ids in zip(rows, encoded, strict=True)]
    result = {
        "job": asdict(job),
        "kinds": [kind for kind, _ in texts] if job.kind != "horizon" else None,
        "lengths": training.targets.lengths.tolist(),
        "found": known.found.tolist(),
        "right": known.right.tolist(),
        "teacher_forced": [round(float(value), 4) for value in known.accuracy],
        "decoders": told,
        "log": known.log,
        "difference": difference,
        "stop_margin": training.stop_margin,
        "frozen_unchanged": frozen.fingerprint() == before,
        "train_seconds": seconds,
        "seconds": time.process_time() - started,
    }
    write_whole(job.path, json.dumps(result) + "\n")
    with contextlib.suppress(FileNotFoundError):
        job.path.with_suffix(".pt").unlink()
    return time.process_time() - started
