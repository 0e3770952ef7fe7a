"""What differs between two nested mappings, and how a message says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def describe(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """One line: every key with its old and its new value."""
    return ", ".join(f"{key}: {_short(old)} -> {_short(new)}" for key, (old, new) in changes.items())


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key to (value before, value now), for all that differ; None stands for a key that is not there."""
    old, new = flat(before), flat(now)
    return {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}


def _short(value: Any) -> str:
    return "(not set)" if value is None else f"{value[:12]}..." if len(str(value)) == 64 else str(value)


def flat(values: Any) -> dict[str, Any]:
    """Nested mappings to one, with dotted keys."""
    return dict(_pairs(values))


def _pairs(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
