"""Figures made and not painted, which takes a second an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def savefig(figure: object, path: str | Path, **settings: Any) -> None:
    """In place of `Figure.savefig`: an empty file."""
    Path(path).write_bytes(b"")
