"""Recipes: settings loaded as defaults < recipe < overlays < key=value. Nothing else changes a value."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stoical.common.arguments import check_literal, dotlist_layer, one_line, split_arguments, text_keys
from stoical.common.differences import flat
from stoical.common.fields import unknown
from stoical.common.options import keys_of, section_of
from stoical.common.places import shipped
from stoical.config.checks import check_recipe
from stoical.config.encoders import TRAINING, refuse_others
from stoical.config.libraries import CLASSES, library_fields
from stoical.config.recipe import Recipe

Layer = tuple[str, DictConfig]
"""Settings, and where they come from: a file or the command line."""

MEANT = {  # what people call a setting elsewhere -> its name here
    "lr": "training.learning_rate",
    "batch_size": "global_batch_size",
    "train_batch_size": "global_batch_size",
    "epochs": "training.num_train_epochs",
    "num_epochs": "training.num_train_epochs",
    "steps": "training.max_steps",
    "num_steps": "training.max_steps",
    "scheduler": "training.lr_scheduler_type",
    "warmup": "training.warmup_steps",
    "precision": "training.bf16",
    "model": "model.name",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "dataset": "data.path",
    "output_dir": "output",
    "resume_from_checkpoint": "resume",
    "alpha": "loss.alpha",
    "beta": "loss.beta",
}


def list_recipes(folder: str = "") -> list[str]:
    """Names of the recipes, or with folder="overlays" of the overlays."""
    return sorted(path.stem for path in (shipped("recipes") / folder).glob("*.yaml"))


def load_recipe(*words: str) -> Recipe:
    """The recipe that these words describe: names or files of a recipe and overlays, and `key=value` settings.

        load_recipe("wordnet_alpha2", "small", "training.max_steps=100")
        load_recipe("wordnet_alpha2,small", "training.max_steps=100")  # the same
        load_recipe("recipe=wordnet_alpha2,small", "training.max_steps=100")  # the same, as on the command line

    Raises `ValueError` naming the key or file: unknown recipes, overlays and keys (with the nearest known one), wrong
    types, keys given twice and settings that conflict.
    """
    return resolve(*recipe_layers(words))


def resolve(names: Sequence[str], layers: Sequence[Layer]) -> Recipe:
    """The recipe of these layers; a run directory that no setting gives is named after `names`."""
    recipe = build_recipe(layers)
    if recipe.output is None:
        recipe.output = f"runs/{'-'.join(Path(name).stem for name in names) or 'default'}"
    return recipe


def recipe_layers(words: Iterable[str]) -> tuple[list[str], list[Layer]]:
    """The names that the words give, and the layers to merge: a file a name, then the command line."""
    words = list(words)
    values = split_arguments(word for word in words if "=" in word)
    listed = [*(word for word in words if "=" not in word), values.pop("recipe", "")]
    names = [name for word in listed for name in word.split(",") if name]
    return names, [*(read_layer(path) for path in recipe_files(names)), settings_layer(values)]


def settings_layer(values: Mapping[str, str]) -> Layer:
    """`key=value` settings of a recipe, for merging. Raises `ValueError` as `dotlist_layer` does."""
    return dotlist_layer(values, _text_keys())


@cache
def _text_keys() -> frozenset[str]:
    return text_keys(Recipe)


def build_recipe(layers: Sequence[Layer]) -> Recipe:
    """Merge layers over the defaults, in order, and check the whole."""
    recipe = merge_layers(layers)
    if recipe.encoder is not None:
        refuse_others(recipe.encoder.kind, ((origin, key) for origin, layer in layers for key in _keys(layer)))
    _normalise(recipe)
    check_recipe(recipe)
    return recipe


def merge_layers(layers: Sequence[Layer]) -> Recipe:
    """The settings of all layers over the defaults; keys and types are checked, not how they go together."""
    merged = copy.deepcopy(_defaults())
    for origin, layer in layers:
        check_keys(origin, layer)
        try:
            merged.merge_with(layer)
        except OmegaConfBaseException as error:
            raise ValueError(f"{origin}: {one_line(error)}") from error
    try:
        recipe = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    assert isinstance(recipe, Recipe)
    return recipe


@cache
def _defaults() -> DictConfig:
    """To be copied: reading the types of all settings takes ten times as long."""
    defaults = OmegaConf.structured(Recipe)
    assert isinstance(defaults, DictConfig)
    return defaults


def check_keys(origin: str, layer: DictConfig) -> None:
    """Raise `ValueError` for a key that no recipe has. Keys below a library's section are checked with its values."""
    known, sections, open_ended = known_keys()
    for key, value in _keys(layer).items():
        if key in sections and value is not None:
            hint = f" Did you mean {MEANT[key]!r}?" if key in MEANT else ""
            said = f"{key}={value}: {key!r} is a section; `stoical recipes keys {key}` lists it."
            raise ValueError(f"{origin}: {said}{hint}")
        inside = any(key.startswith(f"{section}.") for section in open_ended)
        if not (inside or key in known or key in sections):
            raise ValueError(f"{origin}: {_unknown_key(key, [*known, *_library_keys()])}")


def _keys(layer: DictConfig) -> dict[str, Any]:
    return flat(OmegaConf.to_container(layer))


@cache
def known_keys() -> tuple[list[str], list[str], list[str]]:
    """The keys of a recipe, its sections, and the keys whose value is a mapping of names that are not ours."""
    keys = list(keys_of(Recipe))
    return (
        [key.name for key in keys],
        list(_sections(Recipe)),
        [key.name for key in keys if key.type.startswith("dict")],
    )


def _sections(schema: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(schema)
    for each in fields(schema):
        section = section_of(hints[each.name])
        if section is not None:
            yield f"{prefix}{each.name}"
            yield from _sections(section, f"{prefix}{each.name}.")


def _library_keys() -> list[str]:
    return [f"{section}.{field}" for name, (_, section) in CLASSES.items() for field in library_fields(name)]


def _unknown_key(key: str, known: Sequence[str]) -> ValueError:
    return unknown("setting", key, known, " `stoical recipes keys` lists them.", MEANT.get(key))


def _normalise(recipe: Recipe) -> None:
    """Put right what YAML or an overlay's way of taking a setting back leaves in the training section.

    Of an encoder's, the defaults that mean nothing to it go.
    """
    table = library_fields("TrainingArguments")
    training: dict[str, Any] = {}
    for key, value in recipe.training.items():
        if value is False and key in table and not table[key].fits(False) and table[key].fits("no"):
            value = "no"  # YAML reads a bare `no` as False; here (eval_strategy) the word is meant
        if not (key == "optim" and value is None):  # null takes an overlay's word back
            training[key] = value
    if recipe.encoder is not None:
        training = {key: value for key, value in training.items() if key in TRAINING}
    recipe.training = training


def recipe_files(names: Sequence[str]) -> list[Path]:
    """The files behind names: the first is a recipe, the others overlays; a path to a YAML file may stand for either.

    Raises `ValueError` for what is not there, with the nearest name that is.
    """
    return [_recipe_file(name, first=place == 0) for place, name in enumerate(names)]


def _recipe_file(name: str, first: bool) -> Path:
    folder, kind = shipped("recipes"), "recipe" if first else "overlay"
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise ValueError(f"recipe={name}: there is no such file")
        return Path(name)
    if first and name in list_recipes("overlays"):
        raise ValueError(f"{name!r} is an overlay: it goes after a recipe, as in recipe=wordnet_alpha2,{name}")
    known = list_recipes("" if first else "overlays")
    if name not in known:
        hint = " `stoical recipes` lists them; a file of your own is given by its path (./my.yaml)."
        raise unknown(kind, name, known, hint)
    return folder / ("" if first else "overlays") / f"{name}.yaml"


def read_layer(path: Path) -> Layer:
    """The settings in a YAML file as a layer for `build_recipe`. Raises `ValueError` where it is none, or empty."""
    try:
        layer = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    if not isinstance(layer, DictConfig):
        raise ValueError(f"{path} is not a mapping of settings")
    if not layer:
        raise ValueError(f"{path} is empty; a recipe or an overlay sets something")
    check_literal(str(path), "", OmegaConf.to_container(layer))
    return str(path), layer


def origins(layers: Sequence[Layer]) -> dict[str, str]:
    """Dotted key to the layer that set it last; a key that is not here has its default."""
    return {key: origin for origin, layer in layers for key in _keys(layer)}
