"""Where the files that come with stoical are: beside the package in a checkout, inside it once it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent.parent


def shipped(name: str) -> Path:
    """The directory `name` (recipes, accelerate_configs), relative to where the user is if it lies below there."""
    inside = PACKAGE / name
    path = inside if inside.is_dir() else PACKAGE.parent / name
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def data_prep(name: str) -> ModuleType:
    """A module of data_prep: in a checkout the one beside this package, in an installation the one inside it.

    A `data_prep` that stands elsewhere is a folder of the user's.
    """
    found = importlib.util.find_spec("data_prep")
    ours = found is not None and found.origin == str(PACKAGE.parent / "data_prep" / "__init__.py")
    return importlib.import_module(f"{'data_prep' if ours else 'stoical.data_prep'}.{name}")
