"""Lines as they arrive: whoever feeds a pipe line by line gets each answer before the next line is asked for."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import BinaryIO, TypeVar

T = TypeVar("T")

CHUNK = 2**16
GRACE = 0.02  # seconds that a batch waits for another line: the next write of a program that has more to say


def arriving(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file without their ends, and None wherever no more input is waiting."""
    pieces: list[bytes] = []
    while True:
        if not _more_waits(file):
            yield None
        chunk = file.read1(CHUNK)  # type: ignore[attr-defined]  # what is there, without waiting for the rest
        if not chunk:
            break
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        if others:
            yield b"".join(pieces)
            yield from others[:-1]
            pieces = others[-1:]
    if any(pieces):
        yield b"".join(pieces)


def _more_waits(file: BinaryIO) -> bool:
    """True where reading does not wait: there is input, or its end. Also where that cannot be told."""
    try:
        return bool(select.select([file], [], [], GRACE)[0])
    except (OSError, ValueError):
        return True


def batches(lines: Iterable[bytes | None], size: int) -> Iterator[list[tuple[int, bytes]]]:
    """(number from 1, line) of the lines that are not blank, by `size`, or fewer where None says that no more waits.

    There comes an empty batch then: the time to answer whatever was read.
    """
    batch: list[tuple[int, bytes]] = []
    number = 0
    for line in lines:
        if line is not None:
            number += 1
            batch += [(number, line)] if line.strip() else []
        if batch and (line is None or len(batch) == size):
            yield batch
            batch = []
        if line is None:
            yield []
    if batch:
        yield batch


def one_ahead(batches: Iterable[list[tuple[int, bytes]]], make: Callable[[list[tuple[int, bytes]]], T]) -> Iterator[T]:
    """What `make` makes of each batch in a thread, while whoever asked works on the one before.

    After an empty batch, whatever was made is handed out without waiting for the next.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rank") as thread:
        waiting: Future[T] | None = None
        for batch in chain(batches, [[]]):
            upcoming = thread.submit(make, batch) if batch else None
            if waiting is not None:
                yield waiting.result()
            waiting = upcoming
