"""Checks that the settings of several mitigations share."""

from __future__ import annotations

import math


def check_weight(method: str, weight: float) -> None:
    """Raise `ValueError` unless the weight of a term of the loss is a finite number, 0 or more."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"mitigations.{method}.weight={weight} must be a finite number, 0 or more")


def check_at_least(method: str, key: str, value: int, least: int) -> None:
    """Raise `ValueError` where a count is smaller than it can be."""
    if value < least:
        raise ValueError(f"mitigations.{method}.{key}={value} must be at least {least}")
