"""Recipes of a tiny model on a tiny dataset, which they write at first."""

from __future__ import annotations

from pathlib import Path

from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from tests.support.small_data import TINY, write_dataset


def tiny_recipe(
    directory: Path, *extra: str, recipe: str = "wordnet_alpha2", overlays: str = "small", output: str = "run"
) -> Recipe:
    """Later words win over those of the same key before them."""
    data = directory / "data"
    if not data.exists():
        write_dataset(data, train=24, test=6)
    words = [f"recipe={recipe},{overlays}", f"data.path={data}", f"output={directory / output}", *TINY, *extra]
    return load_recipe(*{word.partition("=")[0]: word for word in words}.values())


def tiny_lora(directory: Path, *extra: str, output: str = "run") -> Recipe:
    """With adapters of rank 2, in float32 so that equalities can be tight."""
    own = ["model.dtype=float32", "lora.r=2", *extra]
    return tiny_recipe(directory, *own, overlays="small,lora", output=output)
