"""SPIN (self-play fine-tuning, Chen et al. 2024, arXiv 2401.01335): DPO against the model's own outputs, in iterations.

Iteration k starts from the model p_k, the checkpoint at first, and p_k is its reference. p_k writes an output y' for
every prompt of the training split; the pairs are (the first document, y'), but for those where y' is right. Iteration k
trains on the pairs of iterations k - 1 and k.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from transformers.trainer import TRAINER_STATE_NAME

from stoical.common.differences import describe, differences
from stoical.common.files import check_writable, json_object, write_whole
from stoical.config.recipe import Recipe
from stoical.preferences.dpo import METHOD
from stoical.preferences.run import (
    changed_origin,
    described,
    keep_pairs,
    kept_pairs,
    made_from,
    make_pairs,
    train_on_pairs,
)
from stoical.preferences.settings import SpinSettings
from stoical.preferences.start import Start
from stoical.runs.checkpoints import last_checkpoint
from stoical.runs.lock import LOCK, only_run
from stoical.runs.model_card import CardMethod
from stoical.runs.processes import join_processes
from stoical.runs.resume import resume_from
from stoical.training.arguments import micro_batches

SPIN = CardMethod("[self-play fine-tuning](https://arxiv.org/abs/2401.01335)", METHOD.loss)
SETTINGS_FILE = "spin.json"


def run_spin(recipe: Recipe, start: Start, settings: SpinSettings) -> None:
    """Run all iterations, or those that a stopped command left. Every process calls this."""
    if recipe.training.get("save_strategy", "steps") != "steps":
        raise ValueError("training.save_strategy is not for this command to take: iterations start from the last step")
    output = Path(str(recipe.output))
    check_writable(output)
    micro_batches(recipe, join_processes(recipe))
    with only_run(output):
        _begin(recipe, start, settings)
        for iteration in range(1, settings.iterations + 1):
            after = _iterate(recipe, start, settings, iteration)
            if after is None:
                return
            start = after
    _say(f"{settings.iterations} iterations are done; evaluate with: stoical evaluate checkpoint={output}")


def _begin(recipe: Recipe, start: Start, settings: SpinSettings) -> None:
    """Note what this run is. Raises `ValueError` where the directory holds another, or this one without resume=auto."""
    output = Path(str(recipe.output))
    path = output / SETTINGS_FILE
    if recipe.resume not in (None, "auto"):
        raise ValueError(f"resume={recipe.resume}: this command takes resume=auto, which goes on where it was stopped")
    now = {"checkpoint_sha256": start.sha256(), "spin": asdict(replace(settings, iterations=0))}  # more may be added
    if not path.is_file() and any(held.name != LOCK for held in output.iterdir()):
        raise ValueError(f"output={output} holds something else; give another directory")
    if path.is_file():
        if recipe.resume is None:
            raise ValueError(f"{output} already holds a run; set resume=auto to continue it, or output=")
        changes = differences(json_object(path), now)
        if changes:
            raise ValueError(f"{output} was started with other settings: {describe(changes)}; set another output=")
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(now, indent=2) + "\n")


def _iterate(recipe: Recipe, start: Start, settings: SpinSettings, iteration: int) -> Start | None:
    """The model after one iteration, trained now or before. None where `start` writes nothing but right outputs."""
    folder = Path(str(recipe.output)) / f"iteration-{iteration}"
    own = _recipe_of(recipe, start, folder)
    checkpoint = resume_from(own)
    if checkpoint is None or not _is_last(checkpoint):
        pairs, record = _pairs(own, start, settings, iteration)
        _say(f"iteration {iteration}: {described(record['counts'])}")
        if not len(pairs):
            _say(f"every output is right: there is nothing left to learn after {iteration - 1} iterations")
            return None
        both = concatenate_datasets([*_earlier(folder, iteration), pairs])
        train_on_pairs(own, start, settings.beta, both, SPIN, record, checkpoint)
        gc.collect()  # a trainer and its two models are a cycle of references
    last = last_checkpoint(folder)
    assert last is not None
    return Start(last, start.adapter)


def _recipe_of(recipe: Recipe, start: Start, folder: Path) -> Recipe:
    """The recipe of the iteration that continues from `start`; what is below an adapter stays the same."""
    model = recipe.model if start.adapter else replace(recipe.model, name=str(start.checkpoint))
    return replace(recipe, output=str(folder), model=model)


def _is_last(checkpoint: Path) -> bool:
    """True where this was saved after the last step of its iteration."""
    state = json_object(checkpoint / TRAINER_STATE_NAME)
    return bool(state["global_step"] >= state["max_steps"])


def _pairs(recipe: Recipe, start: Start, settings: SpinSettings, iteration: int) -> tuple[Dataset, dict[str, Any]]:
    """The iteration's own pairs: those that a stopped command kept, if they would be made again alike, or new ones."""
    folder, outputs, epoch = Path(str(recipe.output)), settings.outputs(), iteration - 1
    kept = kept_pairs(folder)
    if kept is not None and not changed_origin(kept[1], made_from(recipe, start, outputs, epoch)):
        return kept
    pairs, record = make_pairs(recipe, start, outputs, epoch)
    keep_pairs(pairs, record, folder)
    return pairs, record


def _earlier(folder: Path, iteration: int) -> list[Dataset]:
    """The pairs of the iteration before, none for the first. Raises `ValueError` where they are gone."""
    if iteration == 1:
        return []
    before = folder.with_name(f"iteration-{iteration - 1}")
    kept = kept_pairs(before)
    if kept is None:
        raise ValueError(
            f"{before} has lost its pairs, which iteration {iteration} trains on, too; delete {before} to do it again"
        )
    return [kept[0]]


def _say(text: str) -> None:
    if PartialState().is_main_process:
        print(text, flush=True)
