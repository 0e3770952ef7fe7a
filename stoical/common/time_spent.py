"""Where the seconds of a command went, in one line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

T = TypeVar("T")
ELSE = "else"


@cache
def process_start() -> float:
    """When this process began, as `time.time` counts: before the imports, which take seconds."""
    import psutil

    return float(psutil.Process().create_time())


def command_start() -> float:
    """When the command at hand began: with the process, or now if the process has had a command before."""
    return time.time() if process_start.cache_info().currsize else process_start()


class TimeSpent:
    """Seconds of wall time by what they were spent on, since `began` (`time.time`; None: since it was made).

    Parts are not to lie within each other. On a GPU a part has the time that the host spent in it, which is where it
    had to wait for the device.
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = time.perf_counter() - (0.0 if began is None else time.time() - began)
        self._seconds: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        """Seconds more on `what`."""
        self._seconds[what] = self._seconds.get(what, 0.0) + seconds

    def all_so_far(self, what: str) -> None:
        """Whatever was not counted until now was spent on `what`."""
        self.add(what, self._left())

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """What happens in here is spent on `what`, errors or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - started)

    def waiting_for(self, items: Iterator[T], what: str) -> Iterator[T]:
        """The items; the wait for each is spent on `what`. None is taken before it is asked for."""
        while True:
            with self.on(what):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def _left(self) -> float:
        return max(0.0, time.perf_counter() - self._began - sum(self._seconds.values()))

    def __str__(self) -> str:
        parts = {**self._seconds, ELSE: self._left()}
        total = sum(parts.values())
        listed = sorted(parts.items(), key=lambda part: (part[0] == ELSE, -part[1]))
        shares = (f"{what} {_seconds(spent)} ({spent / max(total, 1e-9):.0%})" for what, spent in listed)
        return f"time: {_seconds(total)} s: {', '.join(shares)}"


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
