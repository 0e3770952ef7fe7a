"""Files that are there whole or not at all: checkpoints appear, and disappear, by one rename."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stoical.common.files import sync

UNFINISHED = "_unfinished"  # in the run directory; the hub's uploads leave out what begins with an underscore
RECORD = "resume.json"


def last_checkpoint(directory: str | Path) -> Path | None:
    """The checkpoint-N of a run directory with the highest N, if any: all of them are whole."""
    found = [path for path in Path(directory).glob("checkpoint-*") if path.is_dir() and _step(path) is not None]
    return max(found, key=lambda path: _step(path) or 0, default=None)


def _step(checkpoint: Path) -> int | None:
    """N of checkpoint-N; None for another name."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isascii() and number.isdigit() else None


def publish(staged: Path, final: Path, record: Mapping[str, Any]) -> None:
    """Move a checkpoint that every process has written to its place, with `record` and its files' sizes in resume.json.

    What is in it reaches the disk before its name does.
    """
    sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in _files(staged)}
    (staged / RECORD).write_text(json.dumps({**record, "files": sizes}, indent=2) + "\n")
    for path in (*_files(staged), *(path for path in staged.rglob("*") if path.is_dir()), staged):
        sync(path)
    discard(final)
    staged.rename(final)
    sync(final.parent)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint, its name first: a kill in between leaves nothing that could be taken for one."""
    if checkpoint.is_dir():
        old = checkpoint.parent / UNFINISHED / f"old-{checkpoint.name}"
        old.parent.mkdir(exist_ok=True)
        checkpoint.rename(old)
        shutil.rmtree(old)


def prune(output: Path, limit: int | None, best: str | None) -> None:
    """Discard the oldest checkpoints over `limit` (None or 0: keep all), but neither the best nor the last one."""
    from transformers.trainer_utils import sort_checkpoints

    kept = None if best is None else str(output / Path(best).name)
    checkpoints = sort_checkpoints(str(output), best_model_checkpoint=kept)  # the best is moved next to the last
    keep = max(limit or len(checkpoints), 2 if kept in checkpoints[:-1] else 1)
    for checkpoint in checkpoints[: max(0, len(checkpoints) - keep)]:
        discard(Path(checkpoint))
    with contextlib.suppress(OSError):  # another machine's process may write there
        (output / UNFINISHED).rmdir()


def missing_files(checkpoint: Path, record: Mapping[str, Any]) -> list[str]:
    """Files that the checkpoint was published with and that are gone, or of another size."""
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in _files(checkpoint)}
    kept = (item for item in record["files"].items() if item[0] != "README.md")  # a card is there to be edited
    return [name for name, size in kept if sizes.get(name) != size]


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())
