"""Draw how long lists, prompts and docIDs are: Figure 3 of the SToICaL paper, for datasets as recipes read them.

  stoical histograms [recipes=wordnet_ntp,esci_ntp] [output=DIR] [key=value ...]

Reads both splits of each recipe's dataset with its prompt and tokenizer, before truncation, and writes
length_histograms.png and, with the counts of every bar, length_histograms.json. key=value settings, such as
tokenizer.name=DIR, go to all recipes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stoical.commands.shell import Command, Given
from stoical.common.files import check_writable
from stoical.common.options import option
from stoical.common.progress import progress
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.data.dataset import load_split
from stoical.data.files import check_dataset

if TYPE_CHECKING:
    from stoical.reporting.histograms import Lengths


def measure(recipe: Recipe) -> Lengths:
    """The lengths in both splits, with the prompt and tokenizer of the recipe. Negatives are left out."""
    from stoical.build.encoder import build_encoder, build_tokenizer
    from stoical.reporting.histograms import Lengths

    tokenizer = build_tokenizer(recipe)
    encoder = replace(build_encoder(recipe, tokenizer), max_length=sys.maxsize)
    documents, prompts, docids, too_long = [], [], [], 0
    for split in ("train", "test"):
        rows = load_split(recipe.data.path, split)
        for index in progress(range(len(rows)), f"measuring {rows.name}, queries"):
            query = encoder.encode(rows[index])
            tokens = [len(ids) for ids in query.docid_ids]
            documents.append(len(tokens))
            prompts.append(len(query.prompt_ids))
            docids += tokens
            too_long += len(query.prompt_ids) + max(tokens) > recipe.prompt.max_length
    return Lengths(np.array(documents), np.array(prompts), np.array(docids), recipe.prompt.max_length, too_long)


def labels(words: Sequence[str], recipes: Sequence[Recipe]) -> list[str]:
    """What each recipe's dataset is called: as its directory, with the recipe where two are called alike."""
    names = [Path(recipe.data.path).name for recipe in recipes]
    return [f"{name} ({word})" if names.count(name) > 1 else name for word, name in zip(words, names, strict=True)]


@dataclass
class HistogramOptions:
    """What `stoical histograms` takes beside a recipe's settings."""

    recipes: str = option("wordnet_ntp,esci_ntp", "whose datasets, prompts and tokenizers to measure")
    output: str = option("runs/length_histograms", "the directory to write the figure and its counts to")


def run(given: Given) -> None:
    """Measure, draw and print the means."""
    output, settings = Path(given.options.output), [f"{key}={value}" for key, value in given.settings.items()]
    words = given.options.recipes.split(",")
    recipes = [load_recipe(word, *settings) for word in words]
    for recipe in recipes:
        check_dataset(recipe.data.path)
    check_writable(output)
    from stoical.reporting.histograms import PANELS, histograms_of, plot_histograms

    measured = [histograms_of(measure(recipe)) for recipe in recipes]
    described = dict(zip(labels(words, recipes), measured, strict=True))
    plot_histograms(described, output / "length_histograms.png")
    (output / "length_histograms.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    for name, found in described.items():
        means = ", ".join(f"{label} {found[panel]['mean']:,.1f}" for panel, label in PANELS.items())
        over = f"{found['queries_over_max_length']:,} over {found['max_length']:,} tokens"
        print(f"{name}: {found['queries']:,} queries; means: {means}; {over}")
    print(f"written to {output}")


main = Command(str(__doc__), run, HistogramOptions, settings=True)
