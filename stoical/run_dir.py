"""The run directory: what is written before the first step, so that a run can be told from another."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from omegaconf import OmegaConf
from transformers.trainer_utils import get_last_checkpoint

from stoical.data import load_manifest
from stoical.settings import Recipe

PACKAGES = ("stoical", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")


def resume_from(recipe: Recipe) -> str | None:
    """The checkpoint to go on from. Raises `ValueError` where a run would be overwritten, or there is no checkpoint."""
    output = Path(str(recipe.output))
    check_writable(output)
    last = get_last_checkpoint(str(output)) if output.is_dir() else None
    if recipe.resume is None:
        if last is not None:
            raise ValueError(
                f"{output} already holds a run ({Path(last).name}); set resume=auto to continue it, or output="
            )
        return None
    if recipe.resume == "auto":
        return last
    if not Path(recipe.resume).is_dir():
        raise ValueError(
            f"resume={recipe.resume}: no such checkpoint directory (resume=auto takes the last of {output})"
        )
    return recipe.resume


def check_writable(output: Path) -> None:
    """Raise `ValueError`, before the work and not after it, where the directory for results cannot be written to."""
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"output={output}: {existing} is not a directory that can be written to")


def steps_done(checkpoint: str | None) -> int:
    """Optimizer steps behind a checkpoint; 0 for none."""
    if checkpoint is None:
        return 0
    return int(json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"])


def write_manifest(recipe: Recipe) -> None:
    """Write recipe.yaml (resolved) and manifest.json (versions, commit, data, world size) on the main process."""
    state = PartialState()
    if not state.is_main_process:
        return
    output = Path(str(recipe.output))
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.yaml").write_text(OmegaConf.to_yaml(recipe))
    manifest = {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git": git_state(),
        "data": load_manifest(recipe.data.path),
        "seed": recipe.seed,
        "num_processes": state.num_processes,
        "device": torch.cuda.get_device_name() if state.device.type == "cuda" else str(state.device),
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def git_state() -> dict[str, Any]:
    """Commit of the source tree and whether it differs from it; empty where there is no git."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
