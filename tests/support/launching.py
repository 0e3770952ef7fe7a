"""How tests start two processes."""

from __future__ import annotations

import os
import sys

from tests.support.root import ACCELERATE_CONFIGS

CONFIG = ACCELERATE_CONFIGS / "cpu_2proc.yaml"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
