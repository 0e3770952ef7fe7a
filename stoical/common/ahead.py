"""Making the next thing in a thread while this one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items in their order, each made in a thread while whoever asked for the one before works on it.

    At most one waits. What making an item raises is raised where it is asked for.
    """

    def one() -> list[T]:
        return list(islice(items, 1))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        upcoming = pool.submit(one)
        while made := upcoming.result():
            upcoming = pool.submit(one)
            yield made[0]
