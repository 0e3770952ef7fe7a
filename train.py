"""Fine-tune a language model to rank.

  accelerate launch train.py recipe=NAME[,OVERLAY,...] [key=value ...]
  python train.py recipe=wordnet_alpha2 dry_run=true      show prompts, trie, weights and memory; do not train

Settings are merged as defaults < recipe < overlays < key=value. Results go to runs/<recipe> (output=...).
"""

from collections.abc import Sequence
from pathlib import Path

from stoical.build import build_trainer, micro_batches
from stoical.cli import run
from stoical.config import load_recipe
from stoical.dry_run import show
from stoical.launch import note_unused_gpus
from stoical.resume import resume_from, steps_done
from stoical.run_dir import check_writable, start_run


def main(arguments: Sequence[str]) -> None:
    recipe = load_recipe(arguments)
    if recipe.dry_run:
        print(show(recipe))
        return
    check_writable(Path(str(recipe.output)))
    micro_batches(recipe)  # also joins the processes, whose number a resumed run must share
    checkpoint = resume_from(recipe)
    if steps_done(checkpoint) >= recipe.training["max_steps"] > 0:
        print(
            f"{checkpoint} has done all {recipe.training['max_steps']} steps; to train on, raise training.max_steps "
            "and set resume_force=true: the schedule then is the longer run's"
        )
        return
    note_unused_gpus(arguments)
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


if __name__ == "__main__":
    run(main, __doc__ or "")
