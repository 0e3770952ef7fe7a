"""Progress of long work: a bar on a terminal, and elsewhere, such as in a log, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
DELAY = 3.0  # seconds before a bar appears
EVERY = 10.0  # seconds between lines


def progress(items: Iterable[T], what: str, shown: bool = True) -> Iterator[T]:
    """The items; while they are taken, `what` is said on stderr with how many were, if that takes long.

    shown: False on all processes but one.
    """
    if not shown:
        return iter(items)
    if sys.stderr.isatty():
        return iter(tqdm(items, what, delay=DELAY, leave=False))
    return _with_lines(items, what)


def _with_lines(items: Iterable[T], what: str) -> Iterator[T]:
    started = said = time.monotonic()
    total = f" of {len(items):,}" if isinstance(items, Sized) else ""
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said >= EVERY:
            print(f"{what}: {done:,}{total}, {now - started:.0f} s", file=sys.stderr, flush=True)
            said = now
        yield item
