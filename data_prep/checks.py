"""Checks of settings that several makers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that numpy's RandomState does not take."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be from 0 to 4294967295")


def check_least(options: DataclassInstance, **least: int) -> None:
    """Raise ValueError for the first of these settings that is below its least value."""
    for name, value in least.items():
        if getattr(options, name) < value:
            raise ValueError(f"{name}={getattr(options, name)}: must be at least {value}")


def refuse(options: DataclassInstance, names: Sequence[str], because: str) -> None:
    """Raise ValueError for the first of these settings that is not at its default, as nothing would read it."""
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise ValueError(f"{name}={getattr(options, name)} has no effect with {because}: drop it")
