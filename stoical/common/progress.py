"""Progress of long work: a bar on a terminal, and elsewhere, such as in a log, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
DELAY = 3.0  # seconds before a bar appears
EVERY = 10.0  # seconds between lines


def progress(
    items: Iterable[T], what: str, shown: bool = True, note: Callable[[], str] = str, first: int = 0
) -> Iterator[T]:
    """The items; while they are taken, `what` is said on stderr with how many were, if that takes long.

    shown: False on all processes but one. note: what else to say, asked for each time. first: how many were done before
    these.
    """
    if not shown:
        return iter(items)
    if sys.stderr.isatty():
        return _with_bar(items, what, note, first)
    return _with_lines(items, what, note, first)


def report(since: float, done: str) -> float:
    """Print what was done and the seconds it took; the time now. Both times are `time.perf_counter`'s."""
    now = time.perf_counter()
    print(f"{done} ({now - since:.1f} s)", flush=True)
    return now


def _with_bar(items: Iterable[T], what: str, note: Callable[[], str], first: int) -> Iterator[T]:
    total = len(items) + first if isinstance(items, Sized) else None
    with tqdm(desc=what, total=total, initial=first, delay=DELAY, leave=False) as bar:
        for item in items:
            bar.set_postfix_str(note(), refresh=False)
            yield item
            bar.update()


def _with_lines(items: Iterable[T], what: str, note: Callable[[], str], first: int) -> Iterator[T]:
    started = said = time.monotonic()
    total = f" of {len(items) + first:,}" if isinstance(items, Sized) else ""
    for done, item in enumerate(items, first):
        now = time.monotonic()
        if now - said >= EVERY:
            words = [f"{what}: {done:,}{total}", note(), f"{now - started:.0f} s"]
            print(", ".join(filter(None, words)), file=sys.stderr, flush=True)
            said = now
        yield item
