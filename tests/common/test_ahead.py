"""common/ahead.py: items in their order, one made ahead, errors where they belong, nothing made after the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from stoical.common.ahead import ahead


def test_items_come_in_their_order_one_of_them_ahead() -> None:
    made: list[tuple[int, str]] = []

    def items() -> Iterator[int]:
        for item in range(4):
            made.append((item, threading.current_thread().name))
            yield item

    for taken, item in enumerate(ahead(items())):
        assert item == taken
        deadline = time.monotonic() + 10
        while len(made) < min(taken + 2, 4) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(made) == min(taken + 2, 4), "the next one is made meanwhile, and no more"
    assert all(name.startswith("ahead") for _, name in made)
    assert list(ahead(iter(()))) == []


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_who_stops_early_leaves_no_thread() -> None:
    found = ahead(iter(range(10)))
    next(found)
    found.close()
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())
