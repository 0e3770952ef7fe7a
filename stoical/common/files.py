"""Files on disk: their SHA-256, JSON objects, and files and directories that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import reprlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises `ValueError` naming the file where it holds anything else."""
    value = json_file(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {reprlib.repr(value)}")
    return value


def json_file(path: Path) -> Any:
    """What a JSON file holds. Raises `ValueError` naming it where that is not JSON, or cannot be written again."""
    try:
        value = json.loads(path.read_bytes())
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: holds half of a surrogate pair, which is not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    return value


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    draft = path.with_name(f"{path.name}.new")
    with writing(path):
        try:
            draft.write_bytes(content if isinstance(content, bytes) else content.encode())
            sync(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `ValueError` naming the path, and the space that is left, where what is done here cannot write.

    For a block that does nothing but write: torch and safetensors have errors of their own for a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        existing = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        free = shutil.disk_usage(existing).free / 2**20
        raise ValueError(
            f"{path} cannot be written: {(str(error).splitlines() or [type(error).__name__])[0]} ({free:,.0f} MiB are "
            "free there); what was there before still is"
        ) from error


def sync(path: Path) -> None:
    """Have the operating system write a file or a directory's entries to the disk.

    Some file systems of networks cannot do that for directories; there it is left out.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def check_writable(output: Path) -> None:
    """Raise `ValueError`, before the work and not after it, where the directory for results cannot be written to."""
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"output={output}: {existing} is not a directory that can be written to")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A directory to write to, beside `output`, which takes its place at the end, or goes where something fails.

    So `output` is there whole, or as it was. What it held is gone then: whether it may be replaced is for the caller to
    check. A kill may leave directories beside it whose names begin with a dot, and between two renames `output` is
    among these: `tidy`, which this calls first, and `put_back` are for that. Links to directories stay links.
    """
    place = Path(os.path.realpath(output))
    tidy(place)
    draft = place.with_name(f".{place.name}.new-{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.rglob("*"):
            sync(path)
        _move_into_place(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def tidy(output: Path) -> None:
    """Put back the directory that a killed `staged` had moved away from `output`; remove what else such left beside it.

    What a process that is still running writes there stays.
    """
    put_back(output)
    for path, (_, process) in _beside(Path(os.path.realpath(output))):
        if not _runs(process):
            shutil.rmtree(path, ignore_errors=True)


def put_back(output: Path) -> None:
    """Put back the latest directory that a killed `staged` had moved away from `output`, where it is missing."""
    place = Path(os.path.realpath(output))
    moved = [path for path, (kind, _) in _beside(place) if kind == "old"]
    if moved and not os.path.lexists(place):
        max(moved, key=lambda path: path.stat().st_mtime).rename(place)


def _beside(place: Path) -> list[tuple[Path, tuple[str, int]]]:
    """The directories that `staged` left beside `place`: what they hold, new or old, and of which process."""
    name = re.compile(rf"\.{re.escape(place.name)}\.(new|old)-(\d{{1,9}})")
    found = {path: name.fullmatch(path.name) for path in place.parent.glob(f".{glob.escape(place.name)}.*")}
    return [
        (path, (match[1], int(match[2])))
        for path, match in found.items()
        if match and path.is_dir() and not path.is_symlink()
    ]


def _move_into_place(draft: Path, place: Path) -> None:
    """Put `draft` where `place` is. A kill between the two renames leaves the old directory beside it."""
    old = place.with_name(f".{place.name}.old-{os.getpid()}")
    if place.exists():
        place.rename(old)
    try:
        draft.rename(place)
    except BaseException:
        put_back(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _runs(process: int) -> bool:
    """True where another process of this machine has that number."""
    if process == os.getpid():  # this one has left nothing yet: an earlier one had its number
        return False
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # it runs, and is another user's
    return True
