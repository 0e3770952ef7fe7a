"""Two gloo processes stand for two GPUs: the same gradient, loss and metrics as one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.small_data import TINY, write_dataset

CONFIG = Path(__file__).parent.parent / "accelerate_configs" / "cpu_2proc.yaml"
ONE_STEP = {
    "training.max_steps": "1",
    "training.max_grad_norm": "0",
    "training.logging_steps": "1",
    "training.eval_strategy": "no",
    "training.save_strategy": "no",
}


def run(tmp_path, launcher, **settings):
    output = tmp_path / settings["output"]
    output.mkdir()
    values = dict(word.split("=", 1) for word in TINY) | ONE_STEP | settings
    values |= {"recipe": "wordnet_alpha2_beta2,small", "data.path": tmp_path / "data", "output": output / "run"}
    words = [f"{key}={value}" for key, value in values.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "tests.two_processes", str(output), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return torch.load(output / "gradient.pt"), json.loads((output / "facts.json").read_text())


@pytest.mark.parametrize("normalizer", ["points"])
def test_two_processes_equal_one(tmp_path, normalizer):
    """1 x 8 = 2 processes x 2 accumulated x 2; of 7 test queries, none is counted twice and none lost."""
    write_dataset(tmp_path / "data", train=24, test=7)
    settings = {"loss.normalizer": normalizer}
    gradient, facts = run(tmp_path, [], output="one", **settings)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    micro = {"training.per_device_train_batch_size": "2"}
    shared, shared_facts = run(tmp_path, launcher, output="two", **settings, **micro)
    assert (facts["processes"], shared_facts["processes"]) == (1, 2)
    assert gradient.norm() > 1e-3
    assert (shared - gradient).norm() < 1e-6 * max(1, gradient.norm())
    assert shared_facts["loss"] == pytest.approx(facts["loss"], rel=1e-6)
    assert shared_facts["queries"] == facts["queries"] == [f"q{i}" for i in range(24, 31)]
    assert shared_facts["metrics"] == pytest.approx(facts["metrics"], rel=1e-5)
