"""Files that are there whole or not at all: checkpoints appear, and disappear, by one rename."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from stoical.common.files import json_object, sync

UNFINISHED = "_unfinished"  # in the run directory; the hub's uploads leave out what begins with an underscore
RECORD = "resume.json"
ITEMS_FILE = "items.json"  # of a lookup encoder: the names of its table's rows


def last_checkpoint(directory: str | Path) -> Path | None:
    """The checkpoint-N of a run directory with the highest N, if any: all of them are whole."""
    found = [path for path in Path(directory).glob("checkpoint-*") if path.is_dir() and _step(path) is not None]
    return max(found, key=lambda path: _step(path) or 0, default=None)


def _step(checkpoint: Path) -> int | None:
    """N of checkpoint-N; None for another name."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isascii() and number.isdigit() else None


def publish(staged: Path, final: Path, record: Mapping[str, Any]) -> None:
    """Move a checkpoint that every process has written to its place, with `record` and its files' sums in resume.json.

    What is in it reaches the disk before its name does.
    """
    sums = {path.relative_to(staged).as_posix(): _sum(path) for path in _files(staged)}
    (staged / RECORD).write_text(json.dumps({**record, "files": sums}, indent=2) + "\n", encoding="utf-8")
    for path in (*_files(staged), *(path for path in staged.rglob("*") if path.is_dir()), staged):
        sync(path)
    discard(final)
    staged.rename(final)
    sync(final.parent)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint, its name first: a kill in between leaves nothing that could be taken for one.

    What cannot be deleted stays aside: on NFS a file that somebody still reads comes back under another name.
    """
    if checkpoint.is_dir():
        old = checkpoint.parent / UNFINISHED / f"old-{checkpoint.name}"
        old.parent.mkdir(exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
        shutil.rmtree(old, ignore_errors=True)


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


def read_record(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's resume.json: what defines its run, and each file's sum. Raises `ValueError` where it is damaged.

    A checkpoint of an earlier version has sizes in bytes in place of sums.
    """
    record = json_object(checkpoint / RECORD)
    if not isinstance(record.get("files"), dict):
        raise ValueError(f"{checkpoint / RECORD} does not list the checkpoint's files; delete the checkpoint")
    return record


def damaged_files(checkpoint: Path, record: Mapping[str, Any]) -> list[str]:
    """Files that the checkpoint was published with and that are gone, or not what they were."""
    return [name for name, kept in _immutable(record) if not _is(checkpoint / name, kept)]


def check_unchanged(checkpoint: Path) -> None:
    """Raise `ValueError` where a file that is there is not the one that was saved; files may have been deleted."""
    if not (checkpoint / RECORD).is_file():  # not a checkpoint of a run: an export, or somebody else's
        return
    record = read_record(checkpoint)
    changed = [name for name in damaged_files(checkpoint, record) if (checkpoint / name).is_file()]
    if changed:
        raise ValueError(f"{checkpoint}: not as saved, so damaged or edited: {', '.join(changed)}")


def _immutable(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return (item for item in record["files"].items() if item[0] != "README.md")  # a card is there to be edited


def _is(path: Path, kept: str | int) -> bool:
    """True where a file is there and has the sum, or the size, that was kept."""
    if not path.is_file():
        return False
    return _sum(path) == kept if isinstance(kept, str) else path.stat().st_size == kept


def _sum(path: Path) -> str:
    """XXH3 of a file's bytes: against damage, at the speed of the disk."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return str(digest.hexdigest())


def left_over(output: Path) -> bool:
    """True where a run was killed after its last checkpoint was in place: its card is the last thing that it writes."""
    return (output / UNFINISHED).is_dir() or not (output / "README.md").is_file()


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())
