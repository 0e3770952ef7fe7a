"""Fixtures that tests of several rooms share, and no network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import MistralForCausalLM

from tests.support.commands import run
from tests.support.tiny_model import tiny_model

if TYPE_CHECKING:
    from stoical.ranker import Ranker

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


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
