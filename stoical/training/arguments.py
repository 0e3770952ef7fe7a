"""A recipe's training section as `transformers.TrainingArguments`, for this machine and this many processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from stoical.common.numbers import at_least
from stoical.config.checks import measured
from stoical.config.recipe import Recipe
from stoical.runs.processes import join_processes, no_accelerator
from stoical.training.launch import check_sharding, keep_gradients_sharded


def micro_batches(recipe: Recipe, processes: int) -> tuple[int, int]:
    """(queries a device, accumulation steps) that make up the global batch on so many processes.

    `per_device_train_batch_size` is an upper limit: the largest size under it that divides a process's share is taken.
    With `max_tokens_per_micro_batch` the share is handed out whole, and cut by `micro_batches.TokenBudget`. Raises
    `ValueError` where the global batch cannot be shared out evenly.
    """
    share, rest = divmod(recipe.global_batch_size, processes)
    if rest or not share:
        raise ValueError(
            f"global_batch_size={recipe.global_batch_size} cannot be shared evenly by {processes} processes"
        )
    limit = int(recipe.training["per_device_train_batch_size"])
    at_least("training.per_device_train_batch_size", limit, 1)
    micro = max(size for size in range(1, min(share, limit) + 1) if share % size == 0)
    return (micro, share // micro) if recipe.max_tokens_per_micro_batch is None else (share, 1)


def training_arguments(
    recipe: Recipe, kind: type[TrainingArguments] = TrainingArguments, more: Mapping[str, Any] | None = None
) -> TrainingArguments:
    """The recipe's training section as `TrainingArguments`, or a subclass of it with `more` fields.

    Raises `ValueError` where they cannot be had here.
    """
    micro, accumulated = micro_batches(recipe, join_processes(recipe))
    if recipe.training.get("bf16") and not is_torch_bf16_gpu_available() and not recipe.training.get("use_cpu"):
        raise ValueError(
            "training.bf16=true, and no device here computes in it: set training.bf16=false for float32, or run on a "
            "GPU (dry_run=true needs none)"
        )
    if recipe.training.get("fp16") and not torch.cuda.is_available():
        raise ValueError("training.fp16=true needs a CUDA device, and there is none here; leave it out for float32")
    own = {"per_device_train_batch_size": micro, "report_to": "none"}  # trackers are ours to build, and to guard
    try:
        arguments = kind(
            output_dir=str(recipe.output),
            seed=recipe.seed,
            remove_unused_columns=False,
            gradient_accumulation_steps=accumulated,
            **(machine_defaults(recipe) | dict(more or {}) | recipe.training | own),
        )
    except (ValueError, ImportError) as error:
        raise ValueError(f"training: {error}") from error
    check_sharding(recipe, arguments)
    keep_gradients_sharded(recipe, arguments)
    arguments._n_gpu = min(1, arguments.n_gpu)  # plain `python` on several GPUs: one of them, never DataParallel
    return arguments


def machine_defaults(recipe: Recipe) -> dict[str, Any]:
    """Training arguments that depend on the machine or on how stoical works, not on the experiment."""
    return {
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": not sys.stderr.isatty(),
        "use_cpu": no_accelerator(),
        "logging_nan_inf_filter": False,  # it waits for the device at every step; the trainer refuses such a loss
        "greater_is_better": _greater_is_better(recipe),
        "run_name": Path(str(recipe.output)).name,
        "project": "stoical",
    }


def _greater_is_better(recipe: Recipe) -> bool | None:
    """Of the metric that compares checkpoints: transformers would take the largest CVR for the best."""
    name = recipe.training.get("metric_for_best_model")
    if name is None:
        return None
    return next(metric.better for metric in measured(recipe) if metric.name == name.removeprefix("eval_")) == "higher"
