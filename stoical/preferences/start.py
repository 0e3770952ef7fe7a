"""Where preference training starts: a checkpoint, and the recipe of the run that continues from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stoical.common.files import file_sha256
from stoical.config.loading import build_recipe, settings_layer
from stoical.config.recipe import Recipe
from stoical.objectives.ranking.settings import RankingSettings
from stoical.runs.find import check_own_weights, checkpoint_layers, find_checkpoint, is_adapter, is_soft_prompt

KEPT = (  # of the checkpoint's training section: how and where it computes, not what it was trained with
    *("bf16", "fp16", "tf32", "use_cpu", "per_device_train_batch_size", "activation_checkpointing"),
    *("activation_checkpointing_kwargs", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
    *("dataloader_num_workers", "report_to", "fsdp", "fsdp_config", "deepspeed", "eval_strategy"),
)
REFUSED = {
    "recipe": "the checkpoint brings its recipe",
    "dry_run": "nothing shows pairs without making them",
    "optimizer": "TRL makes the optimizer: training.optim chooses it",
    "loss": "the loss is over preference pairs",
    "mitigations": "the loss is over preference pairs",
    "self_training": "stoical self-train runs it",
    "max_tokens_per_micro_batch": "pairs are cut by training.per_device_train_batch_size",
    "data.generated": "pairs are made of the training split",
    "lora": "full weights go on as full weights, and an adapter as the adapter that it is",
    "quantization": "the model below an adapter stays what it was",
}


@dataclass(frozen=True, slots=True)
class Start:
    """Where training starts: a checkpoint's directory, and whether it holds an adapter alone."""

    checkpoint: Path
    adapter: bool

    def sha256(self) -> dict[str, str]:
        """The sum of every file of weights."""
        return {path.name: file_sha256(path) for path in sorted(self.checkpoint.glob("*.safetensors"))}


def load_start(
    checkpoint: str, output: str, settings: Mapping[str, str], training: Mapping[str, Any]
) -> tuple[Start, Recipe]:
    """The start, and its recipe for the new run in `output`.

    Precedence: the checkpoint's recipe < `training`, the method's own < `settings`, key=value. Of the recipe's training
    section only what KEPT lists stays: schedule and length belong to the run that is over. Raises `ValueError` naming
    the key.
    """
    _check_trl()
    for key in settings:
        reason = REFUSED.get(key) or REFUSED.get(key.split(".")[0])
        if reason:
            raise ValueError(f"{key} is not for this command to take: {reason}")
    start = find_start(checkpoint)
    return start, start_recipe(start, training, {"output": output, **settings})


def _check_trl() -> None:
    if importlib.util.find_spec("trl") is None:
        raise ValueError("preference training needs TRL, which is not installed: pip install 'stoical[preferences]'")


def find_start(directory: str | Path) -> Start:
    """The checkpoint in a directory. Raises `ValueError` where there is none, or where it is a soft prompt."""
    checkpoint = find_checkpoint(str(directory))
    adapter = is_adapter(checkpoint)
    if adapter and is_soft_prompt(checkpoint):
        raise ValueError(f"checkpoint={checkpoint} is a soft prompt; preference training takes full weights and LoRA")
    return Start(checkpoint, adapter)


def start_recipe(start: Start, training: Mapping[str, Any], values: Mapping[str, str]) -> Recipe:
    """The recipe of a run that continues from `start`."""
    check_own_weights(start.checkpoint, values)
    (origin, saved), pointed = checkpoint_layers(start.checkpoint)
    kept = {key: value for key, value in saved.get("training", {}).items() if key in KEPT}
    for key in ("training", "mitigations"):
        OmegaConf.update(saved, key, {}, merge=False)
    new: dict[str, Any] = {"optimizer": "trainer", "resume": None, "resume_force": False, "dry_run": False}
    new["loss"] = {each.name: each.default for each in fields(RankingSettings)}
    new |= {"self_training": None, "data": {"generated": None, "num_negatives": 0}, "training": kept | dict(training)}
    new["max_tokens_per_micro_batch"] = None
    if "training.max_steps" in values and "training.num_train_epochs" not in values:
        new["training"].pop("num_train_epochs", None)  # the length is given in steps
    method = OmegaConf.create(new)
    return build_recipe([(origin, saved), pointed, ("the method's settings", method), settings_layer(values)])
