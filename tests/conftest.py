"""Fixtures that tests of several rooms share, no network, and how tests are shared out over workers.

torch is imported late: the process that hands out tests to workers has no use for it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from tests.support.commands import run
from tests.support.unpainted import savefig

if TYPE_CHECKING:
    from transformers import MistralForCausalLM

    from stoical.ranker import Ranker

gc.disable()  # until all modules are imported: what they make stays

FROZEN = pytest.StashKey[int]()
SLOW = ("training", "self_training", "runs", "project", "preferences", "commands")  # rooms to begin with


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Of tiny tensors more threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def freeze_what_was_imported(request: pytest.FixtureRequest) -> None:
    """By the tests of the file before, where that was much: see `pytest_collection_finish`."""
    if len(sys.modules) > request.session.stash[FROZEN] + 100:
        gc.collect()
        gc.freeze()
        request.session.stash[FROZEN] = len(sys.modules)


@pytest.fixture(autouse=True)
def quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes a second an evaluation; tests marked `paints` paint them."""
    if "matplotlib.figure" in sys.modules and request.node.get_closest_marker("paints") is None:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)


@pytest.fixture
def model() -> MistralForCausalLM:
    from tests.support.tiny_model import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps, with its dataset in `data` beside it. To be read, not to be written to."""
    from tests.support.tiny_run import train_tiny

    return train_tiny(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def loaded(trained: Path) -> Ranker:
    """The run's ranker. Not to be changed either."""
    from stoical.ranker import Ranker

    return Ranker.from_pretrained(trained, device="cpu")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `stoical words...`: (exit code, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return (run(*words), *capsys.readouterr())

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left with one while the other has nothing to do."""
    rooms = [item.path.parent.name for item in items]
    order = {room: place for place, room in enumerate(dict.fromkeys([*SLOW, *rooms]))}
    items.sort(key=lambda item: order[item.path.parent.name])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported out of garbage collection: transformers' Trainer collects after every run.

    And fork the server that processes are forked from, if tests need one, while it holds what a new process would.
    """
    gc.freeze()
    session.stash[FROZEN] = len(sys.modules)
    gc.set_threshold(20_000, 10, 10)  # 700 at first: tests make millions of objects and few circles
    gc.enable()
    if (forked := sys.modules.get("tests.support.forked")) is not None:
        forked.start_server()


def pytest_sessionfinish() -> None:
    """End the server that tests fork from."""
    forked = sys.modules.get("tests.support.forked")
    if forked is not None:
        forked.stop_server()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file to a worker: what a file's tests share is made once, not once a worker."""
    if config.option.dist != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)
