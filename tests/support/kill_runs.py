"""Training processes to be killed: forked from a server that has imported everything, so that each starts at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file

import stoical.training.run_trainer
from stoical.commands.main import main
from stoical.training.trainer import StoicalTrainer

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.kill_runs"])


def start(words: Sequence[str], log: Path, hook: Callable[[], None] | None = None, world: int = 1) -> list[BaseProcess]:
    """`stoical train words...` in `world` processes, which write to `log`; `hook` is called in each beforehand."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
    processes = [
        CONTEXT.Process(target=_train, args=(list(words), log, hook, rank, address if world > 1 else {}))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[BaseProcess], log: Path, seconds: float = 120) -> None:
    """Wait for the run's own end, which must be a good one."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    kill(processes)
    assert set(codes) == {0}, f"{codes}\n{log.read_text()[-3000:]}"


def kill(processes: Sequence[BaseProcess]) -> None:
    """SIGKILL: nothing is caught, nothing is cleaned up."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def await_death(processes: Sequence[BaseProcess], log: Path, seconds: float = 120) -> None:
    """Wait until the run has killed one of its own processes, and kill the others."""
    wait([process.sentinel for process in processes], seconds)
    codes = [process.exitcode for process in processes]
    kill(processes)
    assert -signal.SIGKILL in codes, f"{codes}\n{log.read_text()[-3000:]}"


def same_weights(one: Path, other: Path) -> bool:
    """True where all tensors of two checkpoints are equal, bit for bit."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def _train(words: list[str], log: Path, hook: Callable[[], None] | None, rank: int, address: Mapping[str, str]) -> None:
    if address:
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        if hook is not None and rank == 0:
            hook()
        sys.exit(main(["train", *words]))


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

    def delete_some(directory: Path) -> None:
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
