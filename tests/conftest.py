"""Fixtures that tests of several rooms share, and no network."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import MistralForCausalLM

from tests.support.commands import run
from tests.support.tiny_model import tiny_model

if TYPE_CHECKING:
    from stoical.ranker import Ranker

SLOW = ("training", "self_training", "runs", "project", "preferences", "commands")  # rooms to begin with
torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes a second an evaluation; tests marked `paints` paint them."""
    is_painting = request.node.path.parent.name == "reporting" or request.node.get_closest_marker("paints") is not None
    if "matplotlib.figure" in sys.modules and not is_painting:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: Path(path).write_bytes(b""))


@pytest.fixture
def model() -> MistralForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps, with its dataset in `data` beside it. To be read, not to be written to."""
    from tests.support.tiny_run import train_tiny  # late: it imports all of stoical, which most tests do without

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


def pytest_collection_finish() -> None:
    """Leave what is imported out of garbage collection: transformers' Trainer collects after every run."""
    gc.collect()
    gc.freeze()


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
