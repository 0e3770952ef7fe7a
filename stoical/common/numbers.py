"""Checks of the numbers that settings give: each raises `ValueError` with the setting's name and what it must be."""

from __future__ import annotations

import math


def at_least(name: str, value: float, least: int) -> None:
    """Raise `ValueError` for a number that is too small."""
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")


def within(name: str, value: float, low: float = 0, high: float = 1) -> None:
    """Raise `ValueError` unless a number lies between two, both included."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value} must lie between {low} and {high}")


def above_zero(name: str, value: float) -> None:
    """Raise `ValueError` unless a number is finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be a finite number above 0")


def not_negative(name: str, value: float) -> None:
    """Raise `ValueError` unless a number is finite and 0 or more."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be a finite number, 0 or more")
