"""One run, from its recipe to its last checkpoint: what train.py does, and every stage of self_train.py."""

from __future__ import annotations

from pathlib import Path

from stoical.arguments import micro_batches
from stoical.build import build_trainer
from stoical.resume import resume_from, steps_done
from stoical.run_dir import check_writable, start_run
from stoical.saving import last_checkpoint
from stoical.settings import Recipe


def train(recipe: Recipe) -> Path | None:
    """Train, or go on, or see that nothing is left to do; the run's last checkpoint, if the recipe has any saved.

    Every process calls this. Raises `ValueError` as `resume_from` and `build_trainer` do.
    """
    check_writable(Path(str(recipe.output)))
    micro_batches(recipe)  # also joins the processes, whose number a resumed run must share
    checkpoint = resume_from(recipe)
    if steps_done(checkpoint) >= recipe.training["max_steps"] > 0:
        print(
            f"{checkpoint} has done all {recipe.training['max_steps']} steps; to train on, raise training.max_steps "
            "and set resume_force=true: the schedule then is the longer run's"
        )
        return checkpoint
    trainer = build_trainer(recipe)
    start_run(recipe, trainer.fingerprint, checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.share()
    if trainer.is_world_process_zero():
        print(
            f"trained {trainer.state.global_step} steps; evaluate with: python evaluate.py checkpoint={recipe.output}"
        )
    return last_checkpoint(str(recipe.output))
