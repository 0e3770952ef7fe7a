"""Fine-tune a language model on rows that it writes itself, made offline between iterations of training.

  stoical self-train recipe=NAME,bash [key=value ...]
  stoical self-train recipe=wordnet_beta2,small,quickstart,bash output=runs/bash
  accelerate launch -m stoical self-train recipe=wordnet_beta2,rac

Trains as `stoical train` would into output/iteration-0 (or begins at self_training.start=CHECKPOINT); then, for each of
self_training.iterations, generates rows with the weights so far and trains on them and the dataset into
output/iteration-K. training.max_steps are those of one iteration. Every iteration is a run of its own, which
`stoical evaluate checkpoint=output/iteration-K` takes; checkpoint=output is the last. resume=auto continues where a run
stopped.
"""

from __future__ import annotations

import sys

from stoical.commands.shell import RESUME, Command, Given, quiet_libraries
from stoical.commands.train import check_inputs, dry_run
from stoical.config.loading import load_recipe


def run(given: Given) -> None:
    """Run all iterations, or show what the first would do."""
    words = [f"{key}={value}" for key, value in given.settings.items()]
    recipe = load_recipe(*words)
    if recipe.self_training is None:
        raise ValueError("this recipe has no self_training section: add an overlay (bash), or use stoical train")
    check_inputs(recipe)
    if recipe.dry_run:
        dry_run(recipe, words)
        return
    from accelerate import PartialState

    from stoical.self_training.loop import self_train
    from stoical.training.launch import note_unused_gpus

    quiet_libraries()
    note_unused_gpus(sys.argv)
    checkpoint = self_train(recipe)
    if PartialState().is_main_process:
        print(f"the last iteration's checkpoint is {checkpoint}; stoical evaluate checkpoint={recipe.output}")


main = Command(str(__doc__), run, settings=True, goes_on=RESUME)
