"""Fields of another library's classes as data, checks of settings against them, and the error that suggests a name."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLAIN = {int: "int", float: "float", bool: "bool", str: "str", dict: "dict", list: "list", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a library's class: the kinds of value that YAML may give it, the words it takes, default and help.

    kinds are names out of PLAIN; words are those of a Literal. Enums come as strings, and are left to the library.
    """

    kinds: tuple[str, ...]
    words: tuple[Any, ...] = ()
    default: Any = None
    help: str = ""

    def fits(self, value: Any) -> bool:
        """True where `value`, as YAML gives it, is of a kind or one of the words."""
        kind = PLAIN.get(type(value))
        return value in self.words or kind in self.kinds or (kind == "int" and "float" in self.kinds)

    def __str__(self) -> str:
        return "|".join((*map(str, self.words), *self.kinds))


def field_of(hint: Any, default: Any = None, help: str = "") -> Field:
    """The field of a type hint."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    options = typing.get_args(hint) if is_union else (hint,)
    words = [word for one in options if typing.get_origin(one) is typing.Literal for word in typing.get_args(one)]
    others = [one for one in options if typing.get_origin(one) is not typing.Literal]
    kinds = {PLAIN.get(one) or PLAIN.get(typing.get_origin(one), "str") for one in others}
    ordered = tuple(kind for kind in PLAIN.values() if kind in kinds)  # typing keeps no order of its own in a union
    return Field(ordered, tuple(words), default, help)


def check_fields(section: str, values: Mapping[str, Any], known: Mapping[str, Field], wants: str) -> None:
    """Raise `ValueError` for a key that is not among the `known` fields of the class `wants`, or of another type."""
    for key, value in values.items():
        if key not in known:
            raise unknown(f"{section} setting", f"{section}.{key}", [f"{section}.{name}" for name in known])
        if not known[key].fits(value):
            raise ValueError(f"{section}.{key}={value!r} has the wrong type; {wants} wants {known[key]}")


def unknown(what: str, name: str, known: Sequence[str], hint: str = "", meant: str | None = None) -> ValueError:
    """The error for a name that is not known, with the nearest that is, or with what is `meant`."""
    found = meant or nearest(name, known)
    suggestion = f" Did you mean {found!r}?" if found else ""
    return ValueError(f"{what} {name!r} does not exist.{suggestion}{hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The dotted name that is most like this one, by its last part or by the whole of it; None where none is alike."""
    known = list(known)
    last = _last(name)
    found = alike(name, [one for one in known if _last(one) == last], cutoff=0) or alike(name, known)
    if found:
        return found
    ends = {_last(one): one for one in reversed(known)}  # the first of equals
    end = alike(last, ends, cutoff=0.7)
    return ends[end] if end else None


def alike(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name whose spelling is most like this one's; None where none is as like as `cutoff`, of at most 1."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
