"""Continuing a run: from which checkpoint, and whether it is the same run."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from accelerate import PartialState

from stoical.common.differences import describe, differences, flat
from stoical.common.files import file_sha256, json_object
from stoical.config.encoders import CONSTANT
from stoical.config.loading import build_recipe, read_layer
from stoical.config.recipe import Recipe
from stoical.config.training_fields import METRIC_DRIVEN
from stoical.config.values import recipe_values
from stoical.data.files import split_sha256
from stoical.encoding.prompts import load_template
from stoical.runs.checkpoints import RECORD, UNFINISHED, damaged_files, last_checkpoint, read_record
from stoical.runs.processes import sharding

FREE = (  # what may differ in a resumed run: nothing here reaches the weights of any step
    *("output", "resume", "resume_force", "dry_run"),  # where to write, and how this run was started
    *("data.path", "data.generated"),  # the files themselves are compared
    *("eval.*", "training.eval_*"),  # evaluation draws no random numbers (but see `is_free`)
    *("training.logging_*", "training.log_*", "training.disable_tqdm", "training.report_to", "training.run_name"),
    *("training.project", "training.trackio_*", "training.include_num_input_tokens_seen"),  # what is reported to whom
    *("training.save_*", "training.push_to_hub", "training.hub_*"),  # what is kept and shared
    *("training.dataloader_num_workers", "training.dataloader_pin_memory", "training.dataloader_prefetch_factor"),
    "training.ddp_timeout",
)
LENGTH = ("training.max_steps", "training.num_train_epochs")  # free where the schedule does not end with the run
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What defines a run beside its recipe: the contents of data and template, and how it is spread over processes."""
    data = {split: split_sha256(recipe.data.path, split) for split in ("train", "test")}
    if recipe.data.generated is not None and Path(recipe.data.generated).is_file():
        data["generated"] = file_sha256(recipe.data.generated)
    found = {
        "num_processes": PartialState().num_processes,
        "sharding": sharding(recipe.training) or "none",
        "data_sha256": data,
    }
    if recipe.encoder is None:
        template = repr(load_template(recipe.prompt.template))
        found["template_sha256"] = hashlib.sha256(template.encode()).hexdigest()
    return found


def resume_from(recipe: Recipe) -> Path | None:
    """The checkpoint to continue from, or None to start.

    Raises `ValueError` where a run, its dataset or a loop of runs would be overwritten, where there is no checkpoint or
    only part of one, and where it is of another recipe, dataset or number of processes (but for `resume_force`).
    """
    _check_place(recipe)
    checkpoint = _find(recipe)
    if checkpoint is not None:
        _check_whole(checkpoint)
        changes = changed(checkpoint, recipe)
        if changes and not recipe.resume_force:
            raise ValueError(
                f"{checkpoint} was not trained with the settings given: {describe(changes)}. Give those it was trained "
                "with, or another output= for a new run; resume_force=true continues with the new ones"
            )
    return checkpoint


def _check_place(recipe: Recipe) -> None:
    """Raise `ValueError` where the run's files would take the place of its dataset's or of a loop's."""
    output = Path(str(recipe.output))
    if output.resolve() == Path(recipe.data.path).resolve():
        raise ValueError(
            f"output={output} is the dataset, whose manifest.json a run would replace; set another output="
        )
    for iteration in sorted(output.glob("iteration-*")):
        raise ValueError(
            f"{output} holds {iteration.name}, of stoical self-train or spin: what takes its last checkpoint would "
            "take this run's; set another output="
        )


def _find(recipe: Recipe) -> Path | None:
    output = Path(str(recipe.output))
    last = last_checkpoint(output)
    if recipe.resume is None:
        if last is not None:
            raise ValueError(f"{output} already holds a run ({last.name}); set resume=auto to continue it, or output=")
        return None
    if recipe.resume == "auto":
        return last
    given = Path(recipe.resume)
    if not given.is_dir():
        raise ValueError(
            f"resume={recipe.resume}: no such checkpoint directory (resume=auto takes the last of {output})"
        )
    if last is not None and not last.samefile(given):
        raise ValueError(
            f"resume={recipe.resume}: {output} holds {last.name}, which training from there would mix with; delete the "
            "checkpoints after it, or set another output="
        )
    return given


def _check_whole(checkpoint: Path) -> None:
    """Raise `ValueError` for a directory that is not a checkpoint, or not all of one."""
    if UNFINISHED in checkpoint.absolute().parts:
        raise ValueError(f"{checkpoint} was not written to its end; take a checkpoint-N of the run directory itself")
    if not (checkpoint / RECORD).is_file() or not (checkpoint / "recipe.yaml").is_file():
        raise ValueError(
            f"{checkpoint} has no {RECORD} or no recipe.yaml, so it is not one of this version's checkpoints, or part "
            "of one; to start from its weights alone set model.name= to it"
        )
    record = read_record(checkpoint)
    damaged = damaged_files(checkpoint, record)
    if damaged:
        raise ValueError(
            f"{checkpoint}: gone, cut short or changed: {', '.join(damaged)}; delete it to resume from the one before"
        )
    if not any(name.startswith(("rng_state", "optimizer")) for name in record["files"]):
        raise ValueError(f"{checkpoint} holds weights alone (training.save_only_model), from which no run can go on")


def changed(checkpoint: Path, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key to (value in the checkpoint, value now), for all that differs and can change the weights."""
    saved = build_recipe([read_layer(checkpoint / "recipe.yaml")])
    record = read_record(checkpoint)
    before = flat(recipe_values(saved))
    after = flat(recipe_values(recipe))
    now = fingerprint(recipe)
    before |= flat({name: record.get(name) for name in now})
    after |= flat(now)
    return {key: pair for key, pair in differences(before, after).items() if not is_free(key, recipe)}


def is_free(key: str, recipe: Recipe) -> bool:
    """True where this setting may differ in a resumed run."""
    schedule = recipe.training.get("lr_scheduler_type", "linear" if recipe.encoder is None else CONSTANT)
    methods = recipe.mitigations.methods.values()
    if key in LENGTH:
        share = 0 < recipe.training.get("warmup_steps", 0) < 1 or any(method.follows_length for method in methods)
        return schedule in ENDLESS and not share  # of the run
    evaluation = fnmatchcase(key, "eval.*") or fnmatchcase(key, "training.eval_*")
    if evaluation and (schedule in METRIC_DRIVEN):
        return False
    if key == "eval.score" and any(method.trains_on_score for method in methods):
        return False
    return any(fnmatchcase(key, pattern) for pattern in FREE)


def steps_done(checkpoint: Path | None) -> int:
    """Optimizer steps behind a checkpoint; 0 for none."""
    if checkpoint is None:
        return 0
    return int(json_object(checkpoint / "trainer_state.json")["global_step"])


def is_done(checkpoint: Path, recipe: Recipe) -> bool:
    """True where a checkpoint has done all steps that the recipe asks for: max_steps, or as many epochs as its own."""
    if recipe.training["max_steps"] > 0:
        return steps_done(checkpoint) >= recipe.training["max_steps"]
    saved = build_recipe([read_layer(checkpoint / "recipe.yaml")])
    if saved.training.get("num_train_epochs") != recipe.training.get("num_train_epochs"):
        return False
    return steps_done(checkpoint) >= int(json_object(checkpoint / "trainer_state.json")["max_steps"])
