"""Options as dataclass fields with a type, a default and a line of help, and what help says of them.

The dataclass is all that a command or a recipe says about an option: parsing, help and errors come from it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any


def option(
    default: Any, help: str, factory: Callable[[], Any] | None = None, required: bool = False, verbatim: bool = False
) -> Any:
    """A field of an options class; `factory` makes a default that is mutable, `required` ones must be given.

    verbatim: on a command line it is text to the letter, and not YAML.
    """
    metadata = {"help": help, "required": required, "verbatim": verbatim}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Key:
    """An option as help shows it: dotted name, type and default as words, and its line of help."""

    name: str
    type: str
    default: Any
    help: str


def keys_of(schema: type, prefix: str = "") -> Iterator[Key]:
    """Every option of a dataclass, those of nested sections too, whether the section is there by default or not."""
    hints = typing.get_type_hints(schema)
    for each in sorted(fields(schema), key=lambda each: each.name not in schema.__annotations__):  # inherited last
        name, section = f"{prefix}{each.name}", section_of(hints[each.name])
        if section is not None:
            yield from keys_of(section, f"{name}.")
            continue
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        yield Key(name, type_words(hints[each.name]), default, each.metadata.get("help", ""))


def section_of(hint: Any) -> type | None:
    """The dataclass that a type hint is, alone or beside None."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((one for one in options if is_dataclass(one) and isinstance(one, type)), None)


def type_words(hint: Any) -> str:
    """A type as help says it: the words of a Literal, else names of types; `null` for None."""
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(str(word) for word in typing.get_args(hint))
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return "|".join(type_words(one) for one in typing.get_args(hint))
    if hint is type(None):
        return "null"
    origin = typing.get_origin(hint)
    return str(getattr(origin or hint, "__name__", hint))


def value_words(value: Any) -> str:
    """A value as YAML has it on one line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
