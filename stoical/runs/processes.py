"""The processes of a run: how many there are, and what splits the weights over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from stoical.common.files import json_object
from stoical.config.recipe import Recipe

Sharding = Literal["FSDP1", "FSDP2", "DeepSpeed"]


def no_accelerator() -> bool:
    """True where there is only the CPU: accelerate must be told so, or two launched processes would each run alone."""
    return torch.accelerator.current_accelerator(check_available=True) is None


def join_processes(recipe: Recipe) -> int:
    """Join the processes that the launcher has started, if any; how many they are."""
    cpu = bool(recipe.training.get("use_cpu", no_accelerator()))
    return int(PartialState(cpu=cpu, **_process_group(recipe.training)).num_processes)


def _process_group(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a process group; once it is there, transformers would pass them by."""
    given = {"backend": training.get("ddp_backend")}
    if training.get("ddp_timeout") is not None:
        given["timeout"] = timedelta(seconds=training["ddp_timeout"])
    return {key: value for key, value in given.items() if value is not None and "WORLD_SIZE" in os.environ}


def sharding(training: Mapping[str, Any]) -> Sharding | None:
    """What splits the weights over processes, by the recipe's training section or the launcher; None: nothing does."""
    if training.get("deepspeed") or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return "DeepSpeed"
    if training.get("fsdp"):
        return "FSDP1" if _fsdp_version(training.get("fsdp_config")) == 1 else "FSDP2"
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return "FSDP2" if os.environ.get("FSDP_VERSION", "1") == "2" else "FSDP1"
    return None


def _fsdp_version(config: Any) -> int:
    """As transformers 5.23 reads training.fsdp_config, a mapping or a JSON file: 2 where it does not say."""
    values = json_object(Path(config)) if isinstance(config, str) else config or {}
    return int(values.get("version", values.get("fsdp_version", 2)))
