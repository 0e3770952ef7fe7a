"""What the launcher set up: how weights are shared out over processes, which GPUs stay unused, and how it all ends."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import TrainingArguments

from stoical.common.places import shipped
from stoical.config.recipe import Recipe
from stoical.runs.processes import sharding


def check_sharding(recipe: Recipe, arguments: TrainingArguments) -> None:
    """Raise `ValueError` where weights are split in a way that machine, optimizer or forward layout cannot do."""
    split = sharding(recipe.training)
    if split in ("FSDP1", "FSDP2") and PartialState().distributed_type == DistributedType.MULTI_CPU:
        raise ValueError(
            f"{split} needs GPUs: on CPUs accelerate would leave it out without a word; "
            "use accelerate_configs/cpu_2proc.yaml"
        )
    if recipe.optimizer == "adafactor" and split in ("FSDP1", "DeepSpeed"):
        raise ValueError(
            f"optimizer=adafactor cannot factor its moments on {split}'s flattened weights; use FSDP2 "
            "(accelerate_configs/fsdp2.yaml) or DDP, or optimizer=trainer with training.optim=adamw_torch"
        )
    if recipe.optimizer == "trainer" and recipe.training.get("optim") == "adafactor" and split is not None:
        raise ValueError(
            f"training.optim=adafactor cannot factor its moments on weights that {split} splits; use DDP, "
            "training.optim=adamw_torch or, with FSDP2, optimizer=adafactor and training.optim=null"
        )
    if recipe.max_tokens_per_micro_batch is not None and split == "DeepSpeed":
        raise ValueError(
            "max_tokens_per_micro_batch conflicts with DeepSpeed, which counts micro-batches itself; use DDP or FSDP2, "
            "or training.per_device_train_batch_size"
        )
    if recipe.layout == "cache" and split in ("FSDP1", "FSDP2") and _fsdp_checkpoints_activations(arguments):
        raise ValueError(
            "layout=cache conflicts with fsdp_activation_checkpointing: true, which runs layers twice over one cache; "
            "use layout=sequence"
        )


def _fsdp_checkpoints_activations(arguments: TrainingArguments) -> bool:
    if arguments.fsdp_plugin_args is not None:
        return bool(arguments.fsdp_plugin_args.get("activation_checkpointing"))
    return bool(parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"))


def keep_gradients_sharded(recipe: Recipe, arguments: TrainingArguments) -> None:
    """With FSDP2, share the gradients out after every micro-batch, not once a step.

    Else every GPU would hold them whole while they accumulate: 27 GiB more for a 7B model, in float32.
    """
    if sharding(recipe.training) == "FSDP2":
        asked = arguments.accelerator_config.gradient_accumulation_kwargs or {}
        arguments.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True} | asked


def note_unused_gpus(command: Sequence[str]) -> None:
    """Say on stderr which GPUs one process leaves unused, and the command (`sys.argv`) that uses them all."""
    count = torch.cuda.device_count()
    if count < 2 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    program, *arguments = command
    script = Path(program).name if program.endswith(".py") and "stoical" not in Path(program).parts else "-m stoical"
    unused = ", ".join(f"{index} ({torch.cuda.get_device_name(index)})" for index in range(1, count))
    print(
        f"note: this trains on GPU 0 alone; unused: {unused}. For all of them:\n"
        f"  accelerate launch --config_file {shipped('accelerate_configs') / 'ddp.yaml'} --num_processes={count} "
        f"{script} {' '.join(arguments)}",
        file=sys.stderr,
    )


def end_processes(code: int = 0) -> None:
    """Leave the process group; one of several processes ends right here, with status `code`. A program's last act.

    gloo's threads may free a tensor of the last collective after it is over. One that does so while Python shuts down
    aborts the process, whether or not the group was destroyed, and the launcher would call a finished run failed.
    """
    state = PartialState()
    several = state.num_processes > 1
    state.destroy_process_group()
    if several:
        atexit._run_exitfuncs()  # trackers send the rest of their data there
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
