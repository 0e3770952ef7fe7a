"""Files on disk: their SHA-256, and text that is written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a kill leaves the old one or the new one."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text)
    sync(draft)
    draft.replace(path)


def sync(path: Path) -> None:
    """Have the operating system write a file or a directory's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(output: Path) -> None:
    """Raise `ValueError`, before the work and not after it, where the directory for results cannot be written to."""
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"output={output}: {existing} is not a directory that can be written to")
