"""Where the files that come with stoical are: beside the package in a checkout, inside it once it is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def shipped(name: str) -> Path:
    """The directory `name` (recipes, accelerate_configs), relative to where the user is if it lies below there."""
    inside = PACKAGE / name
    path = inside if inside.is_dir() else PACKAGE.parent / name
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
