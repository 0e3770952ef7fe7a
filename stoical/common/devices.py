"""Devices as users name them."""

from __future__ import annotations

from typing import Any

from stoical.common.lazy import torch


def check_device(device: Any) -> None:
    """Raise `ValueError` for a device that torch does not have here; the CPU is there, and needs no torch to ask."""
    if device == "cpu":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device}: {str(error).splitlines()[0]}") from None


def works_beside(device: Any) -> bool:
    """True where a model computes while Python makes the next batch in a thread: not on the CPU.

    There the two wait for each other at every operation, and evaluating a small model takes a seventh longer.
    """
    return torch.device(device).type != "cpu"
