"""A run of three training steps on disk, for what starts from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from accelerate.state import AcceleratorState, GradientState

import train
from tests.small_data import TINY, write_dataset


def train_tiny(directory: Path, *settings: str) -> Path:
    """Write `data` and `run` into `directory`; the run, whose checkpoint-3 holds a model of one layer."""
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have left its process's state
    GradientState._reset_state()
    write_dataset(directory / "data")
    own = [f"data.path={directory / 'data'}", f"output={directory / 'run'}", "training.save_steps=3"]
    words = {word.partition("=")[0]: word for word in ["recipe=wordnet_alpha2,small", *TINY, *own, *settings]}
    train.main(list(words.values()))
    return directory / "run"
