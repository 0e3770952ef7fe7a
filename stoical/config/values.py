"""A recipe as plain values, and as the YAML of recipe.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from stoical.config.encoders import acts
from stoical.config.recipe import Recipe


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every setting under its key, sections as dicts in dicts; of a lookup encoder's recipe those alone that act on it.

    A copy: to change it leaves the recipe as it is.
    """
    values = asdict(recipe)
    return values if recipe.encoder is None else _acting(values, "")


def recipe_yaml(recipe: Recipe) -> str:
    """The settings as YAML, which `read_layer` and `build_recipe` read back as the same recipe."""
    return OmegaConf.to_yaml(recipe_values(recipe))


def _acting(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Mapping):
            found |= {name: value} if acts(f"{prefix}{name}") else {}
        elif below := _acting(value, f"{prefix}{name}."):
            found[name] = below
    return found
