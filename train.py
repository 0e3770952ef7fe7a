"""Fine-tune a language model to rank.

  accelerate launch train.py recipe=NAME[,OVERLAY,...] [key=value ...]
  python train.py recipe=wordnet_alpha2 dry_run=true      show prompts, trie, weights and memory; do not train

Settings are merged as defaults < recipe < overlays < key=value. Results go to runs/<recipe> (output=...).
"""

from collections.abc import Sequence

from stoical.build import build_trainer
from stoical.cli import run
from stoical.config import load_recipe
from stoical.dry_run import show
from stoical.launch import note_unused_gpus
from stoical.run_dir import resume_from, steps_done, write_manifest


def main(arguments: Sequence[str]) -> None:
    recipe = load_recipe(arguments)
    if recipe.dry_run:
        print(show(recipe))
        return
    checkpoint = resume_from(recipe)
    if steps_done(checkpoint) >= recipe.training["max_steps"] > 0:
        print(f"{checkpoint} has done all {recipe.training['max_steps']} steps; raise training.max_steps to train on")
        return
    note_unused_gpus(arguments)
    trainer = build_trainer(recipe)
    write_manifest(recipe)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.share()
    if trainer.is_world_process_zero():
        print(
            f"trained {trainer.state.global_step} steps; evaluate with: python evaluate.py checkpoint={recipe.output}"
        )


if __name__ == "__main__":
    run(main, __doc__ or "")
