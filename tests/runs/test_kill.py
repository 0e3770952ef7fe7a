"""Runs that are killed, resumed, and end with the weights of a run that was not, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from stoical.runs.checkpoints import UNFINISHED, last_checkpoint
from tests.support import forked, kill_runs
from tests.support.small_data import write_dataset

STEPS = 12  # of 3 an epoch: 20 queries are 5 micro-batches of 4, so that every epoch ends with half a global batch


def rows(run: Path) -> list[dict[str, float]]:
    """The steps' rows of a run's metrics, but for what tells the time."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timeless = ({key: value for key, value in row.items() if not key.endswith("_per_second")} for row in found)
    return [row for row in timeless if "train_runtime" not in row]


def first_step(run: Path) -> float:
    """Wait until a run has done a step; the time then."""
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.005)
    return time.perf_counter()


def test_a_kill_anywhere_in_a_checkpoints_writing_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    """One run, killed six times while it saves; the steps are of different epochs and places in them."""
    write_dataset(tmp_path / "data", train=20)
    log = tmp_path / "log"
    forked.finish(kill_runs.start(kill_runs.words(tmp_path, "through", STEPS), log), log)
    deaths = {"weights": (1, 0), "optimizer": (2, 1), "unnamed": (4, 3), "unlisted": (6, 6), "deleting": (9, 9)}
    for point, (step, left) in deaths.items():
        hook = partial(kill_runs.die_saving, point, step)
        kill_runs.await_death(kill_runs.start(kill_runs.words(tmp_path, "killed", STEPS), log, hook), log)
        last = last_checkpoint(tmp_path / "killed")
        assert last == (tmp_path / "killed" / f"checkpoint-{left}" if left else None), point
        assert list((tmp_path / "killed" / UNFINISHED).iterdir()) or point == "unlisted"
    forked.finish(kill_runs.start(kill_runs.words(tmp_path, "killed", STEPS), log), log)
    through, killed = tmp_path / "through", tmp_path / "killed"
    assert not kill_runs.same_weights(through / f"checkpoint-{STEPS - 1}", through / f"checkpoint-{STEPS}")
    assert kill_runs.same_weights(through / f"checkpoint-{STEPS}", killed / f"checkpoint-{STEPS}")
    assert rows(killed) == rows(through)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in through.iterdir())
    resumed = json.loads((killed / "manifest.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [1, 3, 6, 9]


def test_two_processes_resume_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """Queries and, within them, documents are shuffled anew for each epoch, as one process would."""
    write_dataset(tmp_path / "data", train=24)
    log = tmp_path / "log"

    def command(name: str) -> list[str]:
        return [word.replace("dropout=0.2", "dropout=0") for word in kill_runs.words(tmp_path, name, 6)]

    forked.finish(kill_runs.start(command("one"), log), log)
    forked.finish(kill_runs.start(command("through"), log, world=2), log)
    hook = partial(kill_runs.die_saving, "unnamed", 5)
    kill_runs.await_death(kill_runs.start(command("killed"), log, hook, world=2), log)
    forked.finish(kill_runs.start(command("killed"), log, world=2), log)
    assert kill_runs.same_weights(tmp_path / "through" / "checkpoint-6", tmp_path / "killed" / "checkpoint-6")
    assert rows(tmp_path / "killed") == rows(tmp_path / "through")
    losses, shared = ([row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("one", "through"))
    assert shared == pytest.approx(losses, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "kills"), [(1, 100), (2, 10)])
def test_kills_at_random_moments(tmp_path: Path, world: int, kills: int) -> None:
    """Kill a run of 20 steps at a random moment and resume it, `kills` times or more: always the same weights.

    It goes on until a fifth of `kills` came while a checkpoint was written.
    """
    write_dataset(tmp_path / "data", train=20)
    log, steps, chance = tmp_path / "log", 20, random.Random(world)
    through = kill_runs.start(kill_runs.words(tmp_path, "through", steps), log, world=world)
    began = first_step(tmp_path / "through")
    forked.finish(through, log)
    length = time.perf_counter() - began
    expected = tmp_path / "through" / f"checkpoint-{steps}"
    moments: list[tuple[int, list[str]]] = []
    while len(moments) < kills or sum(bool(inside) for _, inside in moments) < kills // 5:
        assert len(moments) < 5 * kills, "too few kills came while a checkpoint was written"
        run = tmp_path / f"run{len(moments)}"
        processes = kill_runs.start(kill_runs.words(tmp_path, run.name, steps), log, world=world)
        first_step(run)
        time.sleep(chance.uniform(0, length))
        forked.kill(processes)
        last = last_checkpoint(run)
        if last is not None and last.name == expected.name:
            shutil.rmtree(run)
            continue  # it was done before it could be killed
        inside = sorted(path.name for path in (run / UNFINISHED).glob("*"))
        moments.append((0 if last is None else int(last.name.split("-")[1]), inside))
        forked.finish(kill_runs.start(kill_runs.words(tmp_path, run.name, steps), log, world=world), log)
        assert kill_runs.same_weights(expected, run / expected.name), moments[-1]
        assert rows(run) == rows(tmp_path / "through"), moments[-1]
    print(
        f"\n{world} process(es), {length:.1f} s of steps; (last checkpoint, what was unfinished) at a kill: {moments}"
    )
