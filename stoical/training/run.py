"""One run, from its recipe to its last checkpoint: what `stoical train` does, and every stage of self-training."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from accelerate import PartialState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from stoical.baselines.run import train_encoder
from stoical.common.files import check_writable
from stoical.config.recipe import Recipe
from stoical.runs.checkpoints import UNFINISHED, last_checkpoint, left_over, prune
from stoical.runs.directory import start_run
from stoical.runs.lock import only_run
from stoical.runs.processes import join_processes
from stoical.runs.resume import is_done, resume_from, steps_done
from stoical.training.arguments import micro_batches
from stoical.training.build import build_trainer
from stoical.training.trainer import StoicalTrainer


def train(recipe: Recipe, began: float | None = None) -> Path | None:
    """Train, or go on, or see that nothing is left to do; the run's last checkpoint, if the recipe has any saved.

        train(load_recipe("wordnet_alpha2", "small", "training.max_steps=100", "output=runs/mine"))

    began: when the command did, as `time.time` counts, for the line that says where the time went; None: now. Every
    process calls this. Raises `ValueError` as `resume_from` and `build_trainer` do.
    """
    if recipe.encoder is not None:
        return train_encoder(recipe)
    began, output = began or time.time(), Path(str(recipe.output))
    check_writable(output)
    micro = micro_batches(recipe, join_processes(recipe))
    with only_run(output):
        checkpoint = resume_from(recipe)
        if checkpoint is not None and is_done(checkpoint, recipe):
            if left_over(output):
                _finish(build_trainer(recipe), checkpoint)
            length = "max_steps" if recipe.training["max_steps"] > 0 else "num_train_epochs"
            _say(
                f"{checkpoint} has done all {steps_done(checkpoint)} steps; to train on, raise training.{length} and "
                "set resume_force=true: the schedule then is the longer run's"
            )
            return checkpoint
        trainer = build_trainer(recipe, began)
        start_run(recipe, trainer.fingerprint, checkpoint, *micro)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        _share(trainer)
    _say(f"trained {trainer.state.global_step} steps; evaluate with: stoical evaluate checkpoint={recipe.output}")
    return last_checkpoint(output)


def _finish(trainer: StoicalTrainer, checkpoint: Path) -> None:
    """Do what a run still owed that was killed after its last checkpoint was in place."""
    trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    state, output = trainer.state, checkpoint.parent
    if trainer.is_world_process_zero():
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)
        prune(output, trainer.args.save_total_limit, state.best_model_checkpoint)
        _say(f"{output}: finished what the run left undone after its last step")
    _share(trainer)


def _share(trainer: StoicalTrainer) -> None:
    """Write the run's model card, its last file, and push where that was asked for."""
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.share()


def _say(text: str) -> None:
    if PartialState().is_main_process:
        print(text)
