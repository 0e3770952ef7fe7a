"""Programs that tests start as processes of their own: one, or two under accelerate's launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.support.root import ACCELERATE_CONFIGS, ROOT

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
Done = subprocess.CompletedProcess[str]
TWO_PROCESSES = ACCELERATE_CONFIGS / "cpu_2proc.yaml"


def start(*words: str, environment: Mapping[str, str] = ENVIRONMENT) -> Done:
    """`python words...` in the repository's root, with what it said; it must end well."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def launch(*words: str, config: Path = TWO_PROCESSES, environment: Mapping[str, str] = ENVIRONMENT) -> Done:
    """`accelerate launch words...` on two processes."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    return start(*launcher, *words, environment=environment)


def fsdp2_on_cpus(path: Path) -> Path:
    """The shipped configuration for FSDP2, for two processes without a GPU, written to `path`."""
    sharded = yaml.safe_load((ACCELERATE_CONFIGS / "fsdp2.yaml").read_text())
    path.write_text(yaml.safe_dump(sharded | {"use_cpu": True, "num_processes": 2, "mixed_precision": "no"}))
    return path
