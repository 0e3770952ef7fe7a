"""Runs of training that kill themselves, in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file

import stoical.training.run_trainer
from stoical.training.trainer import StoicalTrainer
from tests.support import forked
from tests.support.small_data import TINY

RUN = [
    "recipe=wordnet_alpha2,small",
    *(word for word in TINY if "max_steps" not in word and "save_steps" not in word and "train_batch" not in word),
    "model.config.initializer_range=0.3",  # the usual 0.02 hardly sees the order of documents
    "model.config.attention_dropout=0.2",  # random numbers count too
    "training.per_device_train_batch_size=4",
    "training.learning_rate=0.01",
    "training.lr_scheduler_type=cosine",
    "training.warmup_steps=2",
    "training.logging_steps=1",
    "training.save_steps=1",
    "training.save_total_limit=2",
]


def words(folder: Path, name: str, steps: int) -> list[str]:
    """What starts, or resumes, the run `name` of the dataset `data` in a folder."""
    own = [f"data.path={folder / 'data'}", f"output={folder / name}", "resume=auto", f"training.max_steps={steps}"]
    given = {word.partition("=")[0]: word for word in [*RUN, *own]}
    return list(given.values())


def start(words: Sequence[str], log: Path, hook: Callable[[], None] | None = None, world: int = 1) -> list[BaseProcess]:
    """`stoical train words...` in `world` processes, which write to `log`; `hook` is called in the first beforehand."""
    return forked.start(_train, list(words), hook, log=log, world=world)


def await_death(processes: Sequence[BaseProcess], log: Path) -> None:
    """Wait until the run has killed one of its own processes, and kill the others."""
    codes = forked.wait_for_one(processes)
    assert -signal.SIGKILL in codes, f"{codes}\n{log.read_text()[-3000:]}"


def same_weights(one: Path, other: Path) -> bool:
    """True where all tensors of two checkpoints are equal, bit for bit."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def _train(words: list[str], hook: Callable[[], None] | None) -> int:
    if hook is not None and os.environ.get("RANK", "0") == "0":
        hook()
    return forked.command("train", *words)


def die_saving(point: str, step: int) -> None:
    """Have this process kill itself while it saves the checkpoint of a step.

    point: `weights` (written, and nothing else), `optimizer` (half of its file), `unnamed` (all written, not in its
    place), `unlisted` (in its place, older ones not deleted), `deleting` (an older one, half way).
    """

    def die(*_: Any) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("dead")

    def tear(state: Any, file: str) -> None:
        torch_save(state, file)
        os.truncate(file, os.path.getsize(file) // 2)
        die()

    def delete_some(directory: Path, ignore_errors: bool) -> None:
        if directory.is_dir():  # not what an earlier kill may have left
            next(path for path in directory.iterdir() if path.name == "trainer_state.json").unlink()
            die()

    def patched(trainer: StoicalTrainer, model: Any, trial: Any) -> None:
        if trainer.state.global_step == step:
            owner, name, replacement = {
                "weights": (StoicalTrainer, "_save_optimizer_and_scheduler", die),
                "optimizer": (torch, "save", tear),
                "unnamed": (Path, "rename", die),
                "unlisted": (stoical.training.run_trainer, "prune", die),
                "deleting": (shutil, "rmtree", delete_some),
            }[point]
            setattr(owner, name, replacement)
        save(trainer, model, trial)

    torch_save, save = torch.save, StoicalTrainer._save_checkpoint
    StoicalTrainer._save_checkpoint = patched
