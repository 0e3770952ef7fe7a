"""Runs of rows and seeds: several at a time, each whole or made anew, its result a JSON file beside it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from examples.tables.listed import listed_metrics
from examples.tables.rows import Row
from stoical.common.files import json_object, write_whole
from stoical.reporting.evaluation_dir import read_evaluation

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Job:
    """A run: where its results go, its seed and optimizer steps, the words that define it, and more for evaluation.

    teacher: the run that must be there before, whose scores make the data at `taught`.
    """

    directory: Path
    words: tuple[str, ...]
    seed: int
    steps: int
    extra: tuple[str, ...] = ()
    teacher: Path | None = None
    taught: Path | None = None

    @property
    def settings(self) -> list[str]:
        """What decides the result: a result with other ones is not this job's."""
        return [*self.words, f"seed={self.seed}", f"training.max_steps={self.steps}", *self.extra]

    @property
    def done(self) -> bool:
        """True where the result is there. Raises `ValueError` for one of other settings."""
        path = self.directory / RESULT
        if not path.is_file():
            return False
        if json_object(path).get("settings") != self.settings:
            raise ValueError(f"{self.directory} holds a result of other settings; delete it, or give another out=")
        return True

    def result(self) -> dict[str, Any]:
        """Metrics, those within the list, and seconds."""
        evaluation = self.directory / "eval"
        _, rows = read_evaluation(evaluation, f"stoical evaluate checkpoint={self.directory}")
        return {**json_object(self.directory / RESULT), "listed": listed_metrics(rows)}


def job_of(name: str, row: Row, root: Path, seed: int, steps: int, teacher: str, extra: Sequence[str]) -> Job:
    """The job of a row and a seed; a row that is taught needs the `teacher`'s run of the seed."""
    job = Job(root / f"{name}-{seed}", row.words, seed, steps, tuple(extra))
    if not row.taught:
        return job
    taught = root / f"taught-{seed}"
    words = (*row.words, f"data.path={taught}")
    others = tuple(word for word in extra if not word.startswith("data.path="))
    return replace(job, words=words, extra=others, teacher=root / f"{teacher}-{seed}", taught=taught)


def run_all(jobs: Iterable[Job], workers: int) -> None:
    """Do the jobs that are not done, `workers` at a time, those without a teacher first. A failure ends them all."""
    waiting = sorted((job for job in jobs if not job.done), key=lambda job: job.teacher is not None)
    total, running = len(waiting), dict[Future[float], Job]()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            ready = [job for job in waiting if job.teacher is None or (job.teacher / RESULT).is_file()]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[pool.submit(run, job)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                _check(future, job)
                left = len(waiting) + len(running)
                print(f"[{total - left}/{total}] {job.directory.name}: {future.result():.0f} s", flush=True)


def _check(future: Future[float], job: Job) -> None:
    error = future.exception()
    if error is not None:
        raise ValueError(f"{job.directory.name} failed: {error}; its log is {_log(job)}") from error


def _log(job: Job) -> Path:
    return job.directory.with_suffix(".log")


def run(job: Job) -> float:
    """Train, evaluate, keep the result; the seconds it took. Output goes to a log beside the run's directory."""
    import torch

    torch.set_num_threads(1)
    shutil.rmtree(job.directory, ignore_errors=True)
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with _log(job).open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        _train_and_evaluate(job)
    return time.perf_counter() - started


def _train_and_evaluate(job: Job) -> None:
    from stoical.commands import evaluate, train

    if job.teacher is not None and job.taught is not None:
        _teach(job.teacher, job.taught)
    started = time.process_time()
    last = [f"training.save_steps={job.steps}", "training.save_only_model=true", "training.disable_tqdm=true"]
    words = [*job.settings, *last, f"output={job.directory}", "training.eval_strategy=no"]
    _succeed("train", train.main(words))
    spent = time.process_time() - started
    _succeed("evaluate", evaluate.main([f"checkpoint={job.directory}"]))
    metrics = json_object(job.directory / "eval" / "metrics.json")
    result = {"settings": job.settings, "metrics": metrics, "train_seconds": spent}
    write_whole(job.directory / RESULT, json.dumps(result, indent=1) + "\n")


def _succeed(what: str, status: int | None) -> None:
    if status:
        raise RuntimeError(f"stoical {what} ended with status {status}")


def _teach(teacher: Path, taught: Path) -> None:
    """The teacher's training data with its own score of every document, once."""
    from stoical.ranker import Ranker

    if (taught / "manifest.json").is_file():
        return
    source, draft = data_of(teacher), taught.with_suffix(f".{os.getpid()}")
    draft.mkdir(parents=True)
    rows = list(scored_rows(source, Ranker.from_pretrained(str(teacher))))
    (draft / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for path in source.iterdir():
        if path.name.startswith("test"):
            shutil.copy(path, draft / path.name)
    (draft / "manifest.json").write_text(json.dumps({"name": taught.name, "source": source.name}) + "\n")
    try:
        draft.rename(taught)
    except OSError:  # another process was faster, with the same scores
        shutil.rmtree(draft)


def data_of(run: Path) -> Path:
    """Where the run's data are."""
    import yaml

    return Path(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["data"]["path"])


def scored_rows(source: Path, ranker: Any) -> Iterable[Mapping[str, Any]]:
    """The training rows, without negatives, with the ranker's log-probability (nats) of every document."""
    from stoical.data.dataset import load_split

    for row in load_split(source, "train"):
        ranked = ranker.rank(row.query, [doc.docid for doc in row.docs])
        score = {each.docid: each.score for each in ranked}
        docs = [{"docid": doc.docid, "teacher_score": score[doc.docid]} for doc in row.docs]
        yield {"query_id": row.query_id, "query": row.query, "docs": docs}
