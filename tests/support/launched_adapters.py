"""What two processes do for test_sharded_lora.py: LoRA trained, saved and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from stoical.config.loading import load_recipe
from stoical.training.build import build_trainer
from stoical.training.launch import end_processes
from stoical.training.movement import MovementCheck
from tests.support.launched_runs import let_fsdp_run_on_cpus
from tests.support.small_data import TINY

STEPS = [
    "training.max_steps=6",
    "training.save_steps=2",
    "training.eval_steps=6",
    "training.logging_steps=1",
    "training.learning_rate=0.02",
    "training.warmup_steps=1",
]
LORA = ["model.dtype=float32", "lora.r=3", "lora.lora_dropout=0"]
RUNS = {  # what each adds; `dropout` is resumed in the middle of its second epoch
    "plain": [],
    "checkpointing": ["training.activation_checkpointing=true"],
    "dropout": ["lora.lora_dropout=0.3"],
    "bfloat16": ["model.dtype=bfloat16", "model.from_scratch=false", "tokenizer.vocab_size=null"],
}


def train_run(directory: Path, name: str, *extra: str) -> Any:
    """The trainer after 6 steps of adapters of rank 3 on `directory`/../data, into `directory`/NAME."""
    words = ["recipe=wordnet_alpha2,small,lora", *TINY, *STEPS, *LORA, *RUNS[name.partition("_")[0]], *extra]
    words += [f"data.path={directory.parent / 'data'}", f"output={directory / name}"]
    if name == "bfloat16":  # a model on disk, which FSDP2 has one process read
        base = directory.parent / "base" / "run" / "checkpoint-3"
        words += [f"model.name={base}", f"tokenizer.name={base}"]
    recipe = load_recipe(*{word.partition("=")[0]: word for word in words}.values())
    trainer = build_trainer(recipe)
    trainer.train(resume_from_checkpoint=recipe.resume)
    return trainer


def whole(parameter: Tensor) -> Tensor:
    value = parameter.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def adapters(trainer: Any) -> dict[str, Tensor]:
    """The trained adapters, gathered, under the names that peft saves them by."""
    found = {name: whole(p).clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return {name.replace(".default", ""): value for name, value in found.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def facts_of(directory: Path, name: str) -> dict[str, Any]:
    """Train, and compare, on each process, what it holds with what was written, and with a resumed run."""
    trainer = train_run(directory, name)
    saved, middle = (load_file(directory / name / f"checkpoint-{n}" / "adapter_model.safetensors") for n in (6, 4))
    own = adapters(trainer)
    (check,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, MovementCheck)]
    mine = {
        "saved_whole": equal(saved, own),
        "moved": min(float((saved[key] - middle[key]).abs().max()) for key in saved),
        "looked_at": [check.done, check.steps],
        "sharded": any(isinstance(p, DTensor) for p in trainer.model.parameters()),
        "dtypes": sorted({str(p.dtype) for p in trainer.model.parameters()}),
    }
    if name == "dropout":
        resumed = train_run(directory, f"{name}_resumed", f"resume={directory / name / 'checkpoint-4'}")
        assert resumed.state.global_step == 6
        mine["resumed_equal"] = equal(own, adapters(resumed))
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {"processes": gather_object([mine]), "losses": losses}


def train_all(directory: Path, *names: str) -> None:
    """Those of RUNS that are named, into `directory`, with what is to be known of them in facts.json."""
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        let_fsdp_run_on_cpus()
    facts = {name: facts_of(directory, name) for name in names}
    if PartialState().is_main_process:
        (directory / "facts.json").write_text(json.dumps(facts))
    end_processes()
