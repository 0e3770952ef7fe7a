"""Lines as they arrive on a pipe, and the batches that they make."""

from __future__ import annotations

import gzip
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from stoical.commands.stream import CHUNK, arriving, batches
from stoical.common.text_files import opened


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The end to read from, and the one to write to, without a buffer. Waiting for input is an error after a while."""

    def waited(*_: object) -> None:
        raise TimeoutError("the reader waits")

    read, write = os.pipe()
    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    with os.fdopen(read, "rb") as reading, os.fdopen(write, "wb", 0) as writing:
        yield reading, writing
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_lines_come_before_the_next_is_written(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    reading, writing = pipe
    lines = arriving(reading)
    assert next(lines) is None
    writing.write(b"a\nb\n\nc")
    assert [next(lines) for _ in range(4)] == [b"a", b"b", b"", None], "c is not whole yet"
    writing.write(b"d\n")
    assert [next(lines), next(lines)] == [b"cd", None]
    writing.write(b"last")
    writing.close()
    assert list(lines) == [b"last"]


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_files_never_say_that_nothing_waits(ending: bytes, tmp_path: Path) -> None:
    written = [b"x" * (CHUNK - 1), b"y" * CHUNK, b"", b"z" * (3 * CHUNK), b"w"]
    (tmp_path / "file").write_bytes(b"\n".join(written) + ending)
    (tmp_path / "file.gz").write_bytes(gzip.compress(b"\n".join(written) + ending))
    assert list(arriving(io.BytesIO(b"\n".join(written) + ending))) == written
    for name in ("file", "file.gz"):
        with opened(tmp_path / name) as file:
            assert list(arriving(file)) == written
    assert list(arriving(io.BytesIO(b""))) == []


def test_batches_are_full_or_end_where_nothing_waits() -> None:
    lines = [None, b"a", b"b", b"c", None, None, b" ", b"d", None, b"e"]
    assert list(batches(lines, 2)) == [[], [(1, b"a"), (2, b"b")], [(3, b"c")], [], [], [(5, b"d")], [], [(6, b"e")]]
