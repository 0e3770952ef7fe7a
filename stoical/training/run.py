"""One run, from its recipe to its last checkpoint: what `stoical train` does, and every stage of self-training."""

from __future__ import annotations

from pathlib import Path

from stoical.common.files import check_writable
from stoical.config.recipe import Recipe
from stoical.runs.checkpoints import last_checkpoint
from stoical.runs.directory import start_run
from stoical.runs.processes import join_processes
from stoical.runs.resume import resume_from, steps_done
from stoical.training.arguments import micro_batches
from stoical.training.build import build_trainer


def train(recipe: Recipe) -> Path | None:
    """Train, or go on, or see that nothing is left to do; the run's last checkpoint, if the recipe has any saved.

    Every process calls this. Raises `ValueError` as `resume_from` and `build_trainer` do.
    """
    check_writable(Path(str(recipe.output)))
    micro = micro_batches(recipe, join_processes(recipe))
    checkpoint = resume_from(recipe)
    if steps_done(checkpoint) >= recipe.training["max_steps"] > 0:
        print(
            f"{checkpoint} has done all {recipe.training['max_steps']} steps; to train on, raise training.max_steps "
            "and set resume_force=true: the schedule then is the longer run's"
        )
        return checkpoint
    trainer = build_trainer(recipe)
    start_run(recipe, trainer.fingerprint, checkpoint, *micro)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.share()
    if trainer.is_world_process_zero():
        print(f"trained {trainer.state.global_step} steps; evaluate with: stoical evaluate checkpoint={recipe.output}")
    return last_checkpoint(str(recipe.output))
