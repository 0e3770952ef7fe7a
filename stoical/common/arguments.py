"""`key=value` words of a command line: split, checked against a dataclass of options, and as a layer of settings."""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stoical.common.fields import unknown
from stoical.common.options import keys_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

REASONS = {  # what omegaconf says -> what is wanted
    "is not a ListConfig": "must be a list, such as [a,b]",
    "is not Optional": "must have a value, which null is not",
}

Options = TypeVar("Options", bound="DataclassInstance")


def parse_options(schema: type[Options], values: Mapping[str, str]) -> Options:
    """The options that `values` give, defaults elsewhere.

    Raises `ValueError` for an unknown key (naming the closest), a value of the wrong type, and a required option that
    is missing or empty.
    """
    known = [key.name for key in keys_of(schema)]
    for key in values:
        if key not in known:
            raise unknown("option", key, known, " --help explains every option.")
    verbatim = {each.name for each in fields(schema) if each.metadata.get("verbatim")} & values.keys()
    parsed = {key: word for key, word in values.items() if key not in verbatim}
    _, layer = dotlist_layer(parsed, text_keys(schema))
    hints = typing.get_type_hints(schema)
    for key, word in parsed.items():
        if hints.get(key) is str and layer[key] is None:
            raise ValueError(f"{key}={word} says nothing; give it a value, or leave it out")
    try:
        options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), layer))
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    for key in verbatim:
        setattr(options, key, values[key])
    for each in fields(schema):
        if each.metadata.get("required") and getattr(options, each.name) in ("", None):
            raise ValueError(f"give {each.name}=, {each.metadata['help']}")
    return cast("Options", options)


def split_arguments(words: Iterable[str]) -> dict[str, str]:
    """`key=value` words to a dict.

    Raises `ValueError` for a word without `=`, for a key given twice, and for bytes that are not UTF-8.
    """
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word):
            raise ValueError(f"{word!a}: arguments are text in UTF-8")
        if not equals or not key:
            raise ValueError(f"{word!r}: arguments are key=value, such as recipe=wordnet_alpha2 or seed=1")
        if key in values:
            raise ValueError(f"{key} is given twice, as {values[key]!r} and {value!r}; give it once")
        values[key] = value
    return values


def text_keys(schema: type) -> frozenset[str]:
    """The options of a dataclass that are text."""
    return frozenset(key.name for key in keys_of(schema) if key.type in ("str", "str|null"))


def dotlist_layer(values: Mapping[str, str], texts: Collection[str] = ()) -> tuple[str, DictConfig]:
    """`key=value` settings as (origin, settings), for merging. Of the keys `texts`, 007, no and 1e3 are text.

    Raises `ValueError` for a value that is not YAML, and for `${...}`, which omegaconf would put something in place of.
    """
    layer = OmegaConf.create()
    for key, value in values.items():
        check_literal("command line", key, value)
        try:
            layer.merge_with_dotlist([f"{key}={value}"])
            if key in texts and isinstance(OmegaConf.select(layer, key), bool | int | float):
                OmegaConf.update(layer, key, value)
        except (OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"command line: {key}={value}: {one_line(error)}") from error
    return "command line", layer


def check_literal(origin: str, key: str, value: Any) -> None:
    """Raise `ValueError` for `${...}` anywhere in a value: what a run is given is what stands there."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            check_literal(origin, f"{key}.{name}" if key else str(name), each)
    elif isinstance(value, list):
        for each in value:
            check_literal(origin, key, each)
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{origin}: {key}={value}: ${{...}} is not expanded here; write what it stands for")


def one_line(error: Exception) -> str:
    """An error of omegaconf's with the key that it is about, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    reason = next((said for raw, said in REASONS.items() if raw in lines[0]), lines[0])
    return f"{key}: {reason}" if key else reason
