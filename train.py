"""Fine-tune a language model to rank.

  accelerate launch train.py recipe=NAME[,OVERLAY,...] [key=value ...]
  python train.py recipe=wordnet_alpha2 dry_run=true      show prompts, trie, weights and memory; do not train

Settings are merged as defaults < recipe < overlays < key=value. Results go to runs/<recipe> (output=...).
"""

from collections.abc import Sequence

from stoical.cli import run
from stoical.config import load_recipe
from stoical.dry_run import show
from stoical.launch import note_unused_gpus
from stoical.training import train


def main(arguments: Sequence[str]) -> None:
    recipe = load_recipe(arguments)
    if recipe.self_training is not None:
        raise ValueError("this recipe has a self_training section, which takes a loop of runs: use self_train.py")
    if recipe.dry_run:
        print(show(recipe))
        return
    note_unused_gpus(arguments)
    train(recipe)


if __name__ == "__main__":
    run(main, __doc__ or "")
