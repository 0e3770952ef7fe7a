"""Checks of settings that carry another library's own field names, and the error that suggests the nearest one."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any


def check_fields(section: str, values: Mapping[str, Any], types_of: Mapping[str, Any], wants: str) -> None:
    """Raise `ValueError` for a key that is not among `types_of`, the annotations of `wants`, or of another type."""
    for key, value in values.items():
        if key not in types_of:
            raise unknown(f"{section} setting", f"{section}.{key}", [f"{section}.{name}" for name in types_of])
        if not fits(value, types_of[key]):
            raise ValueError(f"{section}.{key}={value!r} has the wrong type; {wants} wants {types_of[key]}")


def fits(value: Any, hint: Any) -> bool:
    """Is `value`, as YAML gives it, of this type? Enums come as strings, and are left to the library."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return any(_fits_one(value, option) for option in (typing.get_args(hint) if is_union else (hint,)))


def _fits_one(value: Any, option: Any) -> bool:
    if typing.get_origin(option) is typing.Literal:
        return value in typing.get_args(option)
    plain = {int, float, bool, str, dict, list, type(None)}
    kind = option if option in plain else typing.get_origin(option) or str
    return type(value) is kind or (type(value) is int and kind is float)


def unknown(what: str, name: str, known: Sequence[str], hint: str = "") -> ValueError:
    """The error for a name that is not known, with the nearest that is."""
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{what} {name!r} does not exist.{suggestion}{hint}")
