"""Data preparation and self-training that are killed at random moments: nothing is lost, and the end is the same."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from pathlib import Path

import pytest

from stoical.runs.checkpoints import last_checkpoint
from tests.support import forked, kill_runs
from tests.support.small_data import write_dataset

DATASET_KILLS, SELF_TRAINING_KILLS = 100, 30
BASH = [
    "recipe=wordnet_beta2,small,bash",
    *(word for word in kill_runs.RUN if not word.startswith("recipe=")),
    "training.max_steps=6",
    "self_training.bash.beta=0.5",
    "resume=auto",
]


def contents(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file by its path, but for files that tell the time."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make(out: Path, seed: int) -> tuple[str, ...]:
    """Hypernyms of the mammals; the seed draws which nouns are for testing."""
    return ("prepare", "wordnet", "subtree=mammal.n.01", "test_size=200", f"seed={seed}", f"out={out}")


@pytest.mark.slow
def test_a_dataset_is_the_old_or_the_new_one_whenever_its_command_is_killed(tmp_path: Path) -> None:
    """Half of the kills come at any moment, half once files are being written; a second run makes the new dataset."""
    log, chance, expected = tmp_path / "log", random.Random(0), []
    for seed in range(2):
        started = time.perf_counter()
        forked.run(forked.command, *make(tmp_path / f"of{seed}", seed), log=log)
        expected.append(contents(tmp_path / f"of{seed}"))
    length, out = time.perf_counter() - started, tmp_path / "place" / "data"
    assert expected[0] != expected[1]
    found = {"old": 0, "new": 0, "between": 0, "drafts": 0}
    for kill in range(DATASET_KILLS):
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(tmp_path / "of0", out)
        processes = forked.start(forked.command, *make(out, 1), log=log)
        if kill % 2:
            while processes[0].is_alive() and len(list(out.parent.iterdir())) == 1:
                time.sleep(0.0002)
            time.sleep(chance.uniform(0, 0.02))
        else:
            time.sleep(chance.uniform(0, length))
        forked.kill(processes)
        left = [contents(path) for path in out.parent.iterdir()]
        assert expected[0] in left or expected[1] in left, f"kill {kill} lost the dataset"
        there = contents(out) if out.is_dir() else None
        assert there in (None, *expected), f"kill {kill} left a part of a dataset in its place"
        found["between" if there is None else "old" if there == expected[0] else "new"] += 1
        found["drafts"] += len(left) > 1
        forked.run(forked.command, *make(out, 1), log=log)
        assert contents(out) == expected[1], f"kill {kill}"
        assert [path.name for path in out.parent.iterdir()] == ["data"]
    print(f"\n{DATASET_KILLS} kills of {length:.1f} s of preparation: {found}")
    assert found["old"] > DATASET_KILLS // 10
    assert found["drafts"] > DATASET_KILLS // 10


@pytest.mark.slow
def test_self_training_ends_the_same_whenever_it_is_killed(tmp_path: Path) -> None:
    """Weights of every iteration and the generated rows, bit for bit; each run is killed once and resumed."""
    write_dataset(tmp_path / "data", train=20)
    log, chance = tmp_path / "log", random.Random(0)

    def words(name: str) -> list[str]:
        own = (f"data.path={tmp_path / 'data'}", f"output={tmp_path / name}")
        return ["self-train", *{word.partition("=")[0]: word for word in (*BASH, *own)}.values()]

    started = time.perf_counter()
    forked.run(forked.command, *words("through"), log=log)
    length, through, moments = time.perf_counter() - started, tmp_path / "through", []
    while len(moments) < SELF_TRAINING_KILLS:
        run = tmp_path / f"run{len(moments)}"
        processes = forked.start(forked.command, *words(run.name), log=log)
        time.sleep(chance.uniform(0, length))
        done = not processes[0].is_alive()
        forked.kill(processes)
        if done:
            shutil.rmtree(run)
            continue  # it was done before it could be killed
        last = [last_checkpoint(path) for path in sorted(run.glob("iteration-*"))]
        moments.append([None if path is None else path.name for path in last])
        forked.run(forked.command, *words(run.name), log=log)
        for iteration in range(3):
            ours, theirs = (each / f"iteration-{iteration}" for each in (run, through))
            assert kill_runs.same_weights(ours / "checkpoint-6", theirs / "checkpoint-6"), moments[-1]
            rows = [each / "generated.parquet" for each in (ours, theirs) if iteration]
            assert len({path.read_bytes() for path in rows}) <= 1, moments[-1]
        shutil.rmtree(run)
    print(f"\n{SELF_TRAINING_KILLS} kills of {length:.1f} s; last checkpoints of the iterations at a kill: {moments}")
    assert len({str(moment) for moment in moments}) > SELF_TRAINING_KILLS // 4
