"""Processes forked from a server that has imported everything, so that each starts at once.

One alone, or two with the environment that accelerate's launcher would give them. The server itself is forked from the
process that runs the tests, after it has imported their modules and before the first of them (`start_server`).
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import arbitrary_address, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from matplotlib.figure import Figure

import stoical.evaluating
import stoical.self_training.loop
import stoical.training.run  # noqa: F401 (for the server, as those above)
from stoical.commands.main import main
from tests.support.unpainted import savefig

CONTEXT = multiprocessing.get_context("forkserver")


def start(
    target: Callable[..., Any], *arguments: Any, log: Path, world: int = 1, config: Path | None = None, **given: str
) -> list[BaseProcess]:
    """`target(*arguments)` in `world` processes, which write to `log`; what it returns is the exit code.

    config: a file of accelerate's launcher. given: more of the environment.
    """
    shared = given | ({} if world == 1 else launcher_environment(world, config))
    ranks = [{} if world == 1 else {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    processes = [CONTEXT.Process(target=_child, args=(target, arguments, log, shared | rank)) for rank in ranks]
    for process in processes:
        process.start()
    return processes


def run(target: Callable[..., Any], *arguments: Any, log: Path, **given: Any) -> str:
    """Start, wait for a good end, and what was said."""
    finish(start(target, *arguments, log=log, **given), log)
    return log.read_text()


def command(*words: str) -> int:
    """`stoical words...`"""
    sys.argv = ["stoical", *words]
    return main(words)


def launcher_environment(world: int, config: Path | None) -> dict[str, str]:
    """What `accelerate launch --config_file CONFIG` sets for its processes, but for their ranks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    found = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    if config is None:
        return found
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "train.py"])
    given = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    return {key: value for key, value in given.items() if os.environ.get(key) != value} | found


def finish(processes: Sequence[BaseProcess], log: Path, seconds: float = 240) -> None:
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


def wait_for_one(processes: Sequence[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Wait until one has ended, and kill the others; the exit codes from before that."""
    wait([process.sentinel for process in processes], seconds)
    codes = [process.exitcode for process in processes]
    kill(processes)
    return codes


def start_server() -> None:
    """Fork the server from this process: one that multiprocessing starts would import everything once more."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    address = arbitrary_address("AF_UNIX")
    end, held = os.pipe()  # the server ends when nobody holds the other end of this any more
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        child = os.fork()
        if not child:
            try:
                os.close(held)
                forkserver.main(listener.fileno(), end, [])
            finally:
                os._exit(0)
    os.close(end)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, held, child


def stop_server() -> None:
    """End the server, if there is one, and wait for it: so its processor time is counted with that of the tests."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _child(target: Callable[..., Any], arguments: Sequence[Any], log: Path, environment: Mapping[str, str]) -> None:
    os.environ.update(environment, CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    gc.freeze()
    Figure.savefig = savefig  # as in `quick_figures` of conftest.py
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.exit(target(*arguments))
