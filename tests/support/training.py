"""Training a recipe as `stoical train` does, with the trainer to look at."""

from __future__ import annotations

from stoical.config.recipe import Recipe
from stoical.runs.directory import start_run
from stoical.runs.processes import join_processes
from stoical.runs.resume import resume_from
from stoical.training.arguments import micro_batches
from stoical.training.build import build_trainer
from stoical.training.trainer import StoicalTrainer


def trained_run(recipe: Recipe) -> StoicalTrainer:
    """The trainer of a run that was trained to its end, from the checkpoint that the recipe names if any."""
    checkpoint = resume_from(recipe)
    trainer = build_trainer(recipe)
    start_run(recipe, trainer.fingerprint, checkpoint, *micro_batches(recipe, join_processes(recipe)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer
