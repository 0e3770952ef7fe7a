"""Where the seconds went: parts, shares, the rest, and what a run and an evaluation say at their end."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from stoical.commands import evaluate, train
from stoical.common.time_spent import TimeSpent, command_start, process_start
from tests.support.small_data import TINY, write_dataset


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only moves when told to."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0] + 1000)
    return now


def test_parts_come_by_size_and_the_rest_last(clock: list[float]) -> None:
    spent = TimeSpent(began=1090.0)  # ten seconds ago
    clock[0] += 2
    spent.all_so_far("start")
    for _ in range(2):
        with spent.on("forward"):
            clock[0] += 60
    spent.add("saving", 3.25)
    clock[0] += 20
    assert str(spent) == "time: 152 s: forward 120 (79%), start 12.0 (8%), saving 3.2 (2%), else 16.8 (11%)"


def test_a_part_counts_what_ends_in_an_error(clock: list[float]) -> None:
    spent = TimeSpent()

    def fail() -> None:
        with spent.on("forward"):
            clock[0] += 5
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert str(spent) == "time: 5.0 s: forward 5.0 (100%), else 0.0 (0%)"


def test_waiting_is_counted_item_by_item_and_nothing_is_taken_early(clock: list[float]) -> None:
    taken: list[int] = []

    def slow() -> object:
        for item in range(3):
            clock[0] += 1
            taken.append(item)
            yield item
        clock[0] += 1  # what it takes to see that there is no more

    spent = TimeSpent()
    for item in spent.waiting_for(iter(slow()), "loader"):
        assert taken[-1] == item
        clock[0] += 4
    assert str(spent) == "time: 16.0 s: loader 4.0 (25%), else 12.0 (75%)"


def test_a_process_began_before_now_and_a_second_command_of_it_begins_now() -> None:
    process_start.cache_clear()
    began = time.time()
    assert began - 24 * 3600 < command_start() < began
    assert began <= command_start() <= time.time()


def test_a_run_and_an_evaluation_say_where_the_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data")
    words = ["recipe=wordnet_alpha2,small", f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'run'}", *TINY]
    assert train.main(words) == 0
    said = capsys.readouterr().out
    parts = ("start", "forward and backward", "loader", "optimizer", "evaluation", "saving", "else")
    assert {name for name in parts if re.search(rf"{name} [\d.,]+ \(\d+%\)", said)} == set(parts)
    shares = re.findall(r"\((\d+)%\)", next(line for line in said.splitlines() if line.startswith("time: ")))
    assert sum(map(int, shares)) == pytest.approx(100, abs=len(parts))
    assert evaluate.main([f"checkpoint={tmp_path / 'run'}"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert all(name in line for name in ("time: ", "start ", "forward ", "loader ", "writing "))
