"""Fine-tune a language model on rows that it writes itself, made offline between iterations of training.

  accelerate launch self_train.py recipe=NAME,bash [key=value ...]
  python self_train.py recipe=wordnet_beta2,small,quickstart,bash output=runs/bash

Trains as train.py would into output/iteration-0 (or begins at self_training.start=CHECKPOINT); then, for each of
self_training.iterations, generates rows with the weights so far and trains on them and the dataset into
output/iteration-K. training.max_steps are those of one iteration. Every iteration is a run of its own, which
evaluate.py checkpoint=output/iteration-K takes; checkpoint=output is the last. resume=auto goes on where a run stopped.
"""

from collections.abc import Sequence

from accelerate import PartialState

from stoical.cli import run
from stoical.config import load_recipe
from stoical.dry_run import show
from stoical.launch import note_unused_gpus
from stoical.self_training.loop import self_train


def main(arguments: Sequence[str]) -> None:
    recipe = load_recipe(arguments)
    if recipe.dry_run:
        print(show(recipe))
        return
    note_unused_gpus(arguments, "self_train.py")
    checkpoint = self_train(recipe)
    if PartialState().is_main_process:
        print(f"the last iteration's checkpoint is {checkpoint}; python evaluate.py checkpoint={recipe.output}")


if __name__ == "__main__":
    run(main, __doc__ or "")
