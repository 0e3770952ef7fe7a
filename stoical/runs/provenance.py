"""The code and the machine that a result comes from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

PACKAGES = ("stoical", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")


@cache
def package_versions() -> dict[str, str]:
    """Versions of stoical and of what its numbers depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def device_name() -> str:
    """This process's GPU; of a CPU the instructions that torch uses, since rounding follows them."""
    device = PartialState().device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


@cache
def git_state() -> dict[str, Any]:
    """Commit of the source tree, and whether and how it differs from it; empty where there is no git.

    As it was when first asked: what a process has imported does not change with the files.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        quiet = ["git", "--no-optional-locks", *words]  # the user may be committing
        found = subprocess.run(quiet, cwd=folder, capture_output=True, check=True).stdout
        return found.decode(errors="replace").strip()  # a changed line may be in any encoding

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed somewhere inside another's tree?
        state: dict[str, Any] = {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
        if state["dirty"]:
            state["diff_sha256"] = hashlib.sha256(git("diff", "HEAD").encode()).hexdigest()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return state
