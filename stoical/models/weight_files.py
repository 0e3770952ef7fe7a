"""Files of weights in safetensors, looked at before a library makes a model of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

FLOATS = ("F", "BF")  # how the names of safetensors' kinds of floating-point numbers begin


@contextmanager
def weight_file(path: Path) -> Iterator[Any]:
    """A file of safetensors, open. Raises `ValueError` where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def check_floats(path: Path) -> None:
    """Raise `ValueError` for a file that holds whole numbers in place of weights, which would be taken as they are."""
    refuse_whole(path, whole_numbers(path))


def whole_numbers(path: Path) -> list[str]:
    """The names of the tensors in a file that are not of floating-point numbers."""
    with weight_file(path) as file:
        return [name for name in file.keys() if not file.get_slice(name).get_dtype().startswith(FLOATS)]  # noqa: SIM118


def refuse_whole(path: Path, whole: Collection[str]) -> None:
    """Raise `ValueError` where there are such names."""
    if whole:
        raise ValueError(f"{path} holds whole numbers in place of weights: {quoted(whole)}")


def left_out(held: Iterable[str], own: Collection[str]) -> list[str]:
    """The names of tensors `held` that a model's `own` differ from in numbers alone: of layers that it has not."""
    kinds = {_numberless(name) for name in own}
    return [name for name in held if name not in own and _numberless(name) in kinds]


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "N", name)


def quoted(names: Iterable[str]) -> str:
    """The first names of several, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
