"""A recipe as plain values, and as the YAML of recipe.yaml."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from stoical.config.recipe import Recipe


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every setting under its key, sections as dicts in dicts. A copy: to change it leaves the recipe as it is."""
    return asdict(recipe)


def recipe_yaml(recipe: Recipe) -> str:
    """The settings as YAML, which `read_layer` and `build_recipe` read back as the same recipe."""
    return OmegaConf.to_yaml(recipe_values(recipe))
