"""List recipes, show one with all of its settings, or explain settings.

  stoical recipes                                        recipes and overlays, a line each
  stoical recipes show wordnet_alpha2,small [key=value]  the resolved recipe, each value with where it comes from
  stoical recipes keys [SECTION]                         settings: type, default, what they are (training, lora)

A recipe or overlay of your own is a YAML file given by its path: stoical recipes show wordnet_alpha2,./mine.yaml
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from stoical.commands.shell import Command, Given
from stoical.common.fields import unknown
from stoical.common.options import Key, keys_of, value_words
from stoical.common.places import shipped
from stoical.config.libraries import CLASSES, library_fields
from stoical.config.loading import list_recipes, origins, recipe_layers, resolve
from stoical.config.recipe import Recipe
from stoical.config.training_fields import effect
from stoical.config.values import recipe_values

DEFAULT = "default"


def run(given: Given) -> None:
    """Print what the first word asks for."""
    what, *rest = given.words or ["list"]
    if what not in ("list", "show", "keys"):
        raise unknown("word", what, ["list", "show", "keys"])
    if what == "show":
        if not rest and "recipe" not in given.settings:
            raise ValueError("give what to show: stoical recipes show NAME[,OVERLAY,...] [key=value ...]")
        names = [name for word in rest for name in word.split(",")]
        print(show([*names, *(f"{key}={value}" for key, value in given.settings.items())]))
    else:
        print("\n".join(listed() if what == "list" else explained(rest)))


def listed() -> Iterator[str]:
    """Recipes and overlays with the first comment of their files."""
    yield f"Recipes ({shipped('recipes')}):"
    yield from _described("")
    yield ""
    yield "Overlays (recipe=NAME,OVERLAY,...; later ones win):"
    yield from _described("overlays")


def _described(folder: str) -> list[str]:
    names = list_recipes(folder)
    width = max(map(len, names), default=0)
    firsts = [
        (shipped("recipes") / folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0] for name in names
    ]
    return [f"  {name:{width}}  {first.removeprefix('# ')}" for name, first in zip(names, firsts, strict=True)]


def show(words: list[str]) -> str:
    """The resolved recipe as YAML, each value with a comment that says where it comes from.

    Raises `ValueError` as `load_recipe` does.
    """
    names, layers = recipe_layers(words)
    recipe, found = resolve(names, layers), origins(layers)
    lines = list(_lines(recipe, found))
    width = min(60, max(len(text) for text, _ in lines))
    return "\n".join(f"{text:{width}}  # {origin}" if origin else text for text, origin in lines)


def _lines(recipe: Recipe, found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return _nested(recipe_values(recipe), found, "", 0)


def _nested(values: Mapping[Any, Any], found: Mapping[str, str], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    """(line of YAML, origin) of every value; a section has no origin of its own."""
    for name, value in values.items():
        key, indent = f"{prefix}{name}", "  " * depth
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:", ""
            yield from _nested(value, found, f"{key}.", depth + 1)
        else:
            written = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...")
            yield f"{indent}{name}: {written}", found.get(key, DEFAULT)


def explained(sections: list[str]) -> Iterator[str]:
    """Every key below the sections (all of ours without any) with type, default and help."""
    keys = [*keys_of(Recipe), *_library_keys()]
    for section in sections:
        if not any(_below(key.name, section) for key in keys):
            raise unknown("section", section, sorted({key.name.rpartition(".")[0] or key.name for key in keys}))
    own = len(list(keys_of(Recipe)))
    for key in keys if sections else keys[:own]:
        if not sections or any(_below(key.name, section) for section in sections):
            yield f"{key.name}  {key.type} = {value_words(key.default)}"
            yield from textwrap.wrap(
                key.help, 100, initial_indent=" " * 4, subsequent_indent=" " * 4, break_on_hyphens=False
            )
    if not sections:
        yield (
            "\n"
            + ", ".join(f"stoical recipes keys {section}" for _, section in CLASSES.values())
            + ": the fields there"
        )


def _below(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _library_keys() -> Iterator[Key]:
    for name, (_, section) in CLASSES.items():
        for key, field in library_fields(name).items():
            said = f"{effect(key)} {field.help}" if section == "training" else field.help
            yield Key(f"{section}.{key}", str(field), field.default, said)


main = Command(str(__doc__), run, settings=True, words=10, bare=True)
