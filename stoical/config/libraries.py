"""The fields that recipes set on other libraries' classes, known without importing those libraries.

`library_fields.json` holds them for one version of each library (`python -m tools.library_fields` writes it). With
another version installed, the library itself is imported and asked, which takes seconds and gives the same kind of
answer.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import typing
from functools import cache
from pathlib import Path
from typing import Any

from stoical.common.fields import Field, field_of

FILE = Path(__file__).with_name("library_fields.json")
CLASSES = {  # class -> the library that has it, and the section of a recipe that holds its fields
    "TrainingArguments": ("transformers", "training"),
    "LoraConfig": ("peft", "lora"),
    "PromptTuningConfig": ("peft", "soft_prompt"),
    "BitsAndBytesConfig": ("transformers", "quantization"),
}


@cache
def library_fields(name: str) -> dict[str, Field]:
    """The fields of one of CLASSES, for the version that is installed."""
    library, _ = CLASSES[name]
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    if kept["versions"].get(library) != importlib.metadata.version(library):
        return read_fields(name)
    return {key: from_json(value) for key, value in kept["fields"][name].items()}


def read_fields(name: str) -> dict[str, Field]:
    """The fields as the library has them now, which imports it."""
    kind = getattr(importlib.import_module(CLASSES[name][0]), name)
    if not {each.name for each in dataclasses.fields(kind) if each.init} >= {*_arguments(kind)}:
        return _of_signature(kind)
    hints = typing.get_type_hints(kind)
    return {
        each.name: field_of(hints[each.name], _plain(each), " ".join(str(each.metadata.get("help", "")).split()))
        for each in dataclasses.fields(kind)
        if each.init
    }


def _of_signature(kind: Any) -> dict[str, Field]:
    """The fields of a class with an `__init__` of its own: its arguments, of the types of their defaults."""
    return {
        key: field_of(str | list | None if one.default is None else type(one.default), one.default)
        for key, one in _arguments(kind).items()
    }


def _arguments(kind: Any) -> dict[str, inspect.Parameter]:
    return {key: one for key, one in inspect.signature(kind).parameters.items() if key != "kwargs"}


def _plain(each: dataclasses.Field[Any]) -> Any:
    """A default as JSON holds it; what is not plain by its name."""
    value = each.default if each.default is not dataclasses.MISSING else None
    if each.default_factory is not dataclasses.MISSING:
        value = each.default_factory()
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


def from_json(value: dict[str, Any]) -> Field:
    """A field out of the file, which holds it as `dataclasses.asdict` gives it."""
    return Field(tuple(value["kinds"]), tuple(value["words"]), value["default"], value["help"])
