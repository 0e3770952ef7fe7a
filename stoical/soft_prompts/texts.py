"""The texts that prompts are to make a model write, as they are given. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from stoical.common.text_files import text_lines
from stoical.soft_prompts.settings import SoftPromptSettings

Placed = tuple[str, str]  # where a text is from, and the text


def read_texts(settings: SoftPromptSettings) -> list[Placed]:
    """The texts with their places. Raises `ValueError` for a missing or empty file, and for empty targets."""
    if settings.target is not None:
        texts = [("target", settings.target)]
    else:
        path = Path(str(settings.targets))
        if not path.is_file():
            raise ValueError(f"targets={path}: there is no such file")
        texts = list(text_lines(path))
        if not texts:
            raise ValueError(f"targets={path} has no text in it")
    for where, text in texts:
        if not text.strip():
            raise ValueError(f"{where} is empty: there is nothing to write")
    return texts
