"""Text files as people have them: UTF-8 with or without a byte order mark, any line ends, gzipped or not.

Whether a file is gzipped is told from its first bytes; `.gz` at the end of its name is passed over.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO, cast

MARK = "\ufeff"  # the byte order mark
GZIP = b"\x1f\x8b"
NOT_READ = {  # first bytes -> what such a file is
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"PAR1": "a parquet file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def kind(path: PurePath) -> str:
    """The ending that says what a file holds, in small letters: `.jsonl` of `Corpus.JSONL.gz`."""
    return PurePath(path.name.lower().removesuffix(".gz")).suffix


def or_gzipped(path: Path) -> Path:
    """The path, or the same with `.gz` where only that is there."""
    zipped = path.with_name(f"{path.name}.gz")
    return zipped if not path.exists() and zipped.is_file() else path


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unzipped. Raises `ValueError` naming it for what is neither text nor readable gzip."""
    with path.open("rb") as file:
        start = file.peek(6)
        for mark, what in NOT_READ.items():
            if start.startswith(mark):
                raise ValueError(f"{path} is {what}: give it as UTF-8 text, as it is or gzipped")
        if not start.startswith(GZIP):
            yield cast("BinaryIO", file)
            return
        try:
            with gzip.open(file) as inner:
                yield cast("BinaryIO", inner)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is not a readable gzip file: {error}") from None


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line from 1, text) of every line that is not blank, without marks and line ends. `ValueError` if no UTF-8.

    A mark may open any line: files were joined.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                text = line.decode().removeprefix(MARK).rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8: {error}") from None
            if text.strip():
                yield where, text


def whole_text(path: Path) -> str:
    """All of a file, its line ends as Unix has them. Raises `ValueError` where it is not UTF-8."""
    with opened(path) as file:
        try:
            return file.read().decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {error}; it must be UTF-8") from None
