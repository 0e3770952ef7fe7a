"""Fine-tune a language model to rank.

  stoical train recipe=NAME[,OVERLAY,...] [key=value ...]
  accelerate launch -m stoical train recipe=wordnet_alpha2
  stoical train recipe=wordnet_alpha2 dry_run=true     recipe, prompts, trie, weights and memory; no training

From a checkout, train.py is the same as stoical train. Settings are merged as defaults < recipe < overlays < key=value;
a recipe or overlay of your own is given by its path (recipe=wordnet_alpha2,./mine.yaml). Results go to runs/<recipe>
(output=DIR). resume=auto continues from the last checkpoint.
"""

from __future__ import annotations

import sys

from stoical.commands.recipes import show
from stoical.commands.shell import RESUME, Command, Given, quiet_libraries
from stoical.common.time_spent import command_start
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.data.files import check_dataset
from stoical.encoding.prompts import load_template


def run(given: Given) -> None:
    """Train, or show what training would do."""
    words = [f"{key}={value}" for key, value in given.settings.items()]
    recipe = load_recipe(*words)
    if recipe.self_training is not None:
        raise ValueError("this recipe has a self_training section, which takes a loop of runs: use stoical self-train")
    check_inputs(recipe)
    if recipe.dry_run:
        dry_run(recipe, words)
        return
    from stoical.training.launch import note_unused_gpus
    from stoical.training.run import train

    quiet_libraries()
    note_unused_gpus(sys.argv)
    train(recipe, command_start())


def check_inputs(recipe: Recipe) -> None:
    """Raise `ValueError` where the dataset or the prompt template is not there, before torch is imported."""
    check_dataset(recipe.data.path)
    if recipe.encoder is None:
        load_template(recipe.prompt.template)


def dry_run(recipe: Recipe, words: list[str]) -> None:
    """Print the recipe that `words` describe, with where each value comes from, and what training would do."""
    print(f"{show(words)}\n", flush=True)
    if recipe.encoder is None:
        from stoical.training.dry_run import show as shown
    else:
        from stoical.baselines.card import dry_run as shown
    quiet_libraries()
    print(shown(recipe))


main = Command(str(__doc__), run, settings=True, goes_on=RESUME)
