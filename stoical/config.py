"""Recipes: settings loaded as defaults < recipe < overlays < key=value. Nothing else changes a value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stoical.fields import unknown
from stoical.settings import Recipe, check_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


def list_recipes(folder: str = "") -> list[str]:
    """Names of the recipes, or with folder="overlays" of the overlays."""
    return sorted(path.stem for path in (RECIPES / folder).glob("*.yaml"))


def load_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that `recipe=name[,overlay...]` and `key=value` arguments describe.

    Raises `ValueError` naming the key or file: unknown recipes, overlays and keys (with the nearest known one), wrong
    types, keys given twice and settings that conflict.
    """
    values = split_arguments(arguments)
    names = values.pop("recipe", None)
    layers = [read_layer(path) for path in _recipe_files(names)] if names else []
    layers.append(dotlist_layer(values))
    recipe = build_recipe(layers)
    if recipe.output is None:
        recipe.output = f"runs/{(names or 'default').replace(',', '-')}"
    return recipe


def build_recipe(layers: Sequence[tuple[str, DictConfig]]) -> Recipe:
    """Merge (origin, settings) layers over the defaults, in order, and check the whole."""
    merged = OmegaConf.structured(Recipe)
    for origin, layer in layers:
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ValueError(f"{origin}: {one_line(error)}") from error
    try:
        recipe = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    assert isinstance(recipe, Recipe)
    check_recipe(recipe)
    return recipe


def split_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """`key=value` words to a dict; raises `ValueError` for a word without `=` and for a key given twice."""
    values: dict[str, str] = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r}: arguments are key=value, such as recipe=wordnet_alpha2 or seed=1")
        if key in values:
            raise ValueError(f"{key} is given twice, as {values[key]!r} and {value!r}; give it once")
        values[key] = value
    return values


def dotlist_layer(values: dict[str, str]) -> tuple[str, DictConfig]:
    """`key=value` settings of the command line as a layer for `build_recipe`."""
    layer = OmegaConf.create()
    for key, value in values.items():
        try:
            layer.merge_with_dotlist([f"{key}={value}"])
        except (OmegaConfBaseException, YAMLError, ValueError) as error:
            raise ValueError(f"command line: {key}={value}: {one_line(error)}") from error
    return "command line", layer


def _recipe_files(names: str) -> list[Path]:
    recipe, *overlays = names.split(",")
    if recipe in list_recipes("overlays"):
        raise ValueError(f"{recipe!r} is an overlay: it goes after a recipe, as in recipe=wordnet_alpha2,{recipe}")
    if recipe not in list_recipes():
        raise unknown("recipe", recipe, list_recipes(), f" `python train.py --help` lists them ({RECIPES}).")
    for overlay in overlays:
        if overlay not in list_recipes("overlays"):
            raise unknown("overlay", overlay, list_recipes("overlays"), f" They are in {RECIPES / 'overlays'}.")
    return [RECIPES / f"{recipe}.yaml", *(RECIPES / "overlays" / f"{name}.yaml" for name in overlays)]


def read_layer(path: Path) -> tuple[str, DictConfig]:
    """The settings in a YAML file as a layer for `build_recipe`. Raises `ValueError` where it is no mapping of them."""
    try:
        layer = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    if not isinstance(layer, DictConfig):
        raise ValueError(f"{path} is not a mapping of settings")
    return str(path), layer


def one_line(error: Exception) -> str:
    """An error of omegaconf's with the key that it is about, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    return f"{key}: {lines[0]}" if key else lines[0]
