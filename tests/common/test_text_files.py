"""Text files with and without marks, carriage returns and gzip, and what is said of those that are no text."""

from __future__ import annotations

import bz2
import gzip
import os
import threading
from pathlib import Path

import pytest

from stoical.common.text_files import kind, opened, or_gzipped, text_lines, whole_text

MARK = "\ufeff".encode()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("content", [b"a b\n\nc\n", MARK + b"a b\r\n\r\nc", b"a b\n \n" + MARK + b"c\r\n"])
def test_the_same_lines_with_their_places(content: bytes, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / ("it.txt.gz" if zipped else "it.txt")
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert list(text_lines(path)) == [(f"{path}:1", "a b"), (f"{path}:3", "c")]


def test_gzip_is_told_from_the_bytes_and_the_kind_from_the_name(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(gzip.compress(MARK + b"a\r\nb"))
    (tmp_path / "it.gz").write_bytes(b"a\nb")
    assert whole_text(tmp_path / "it") == whole_text(tmp_path / "it.gz") == "a\nb"
    names = ("a.jsonl", "a.b.JSONL.gz", "a.gz", "a", "a.csv.GZ")
    assert [kind(Path(name)) for name in names] == [".jsonl", ".jsonl", "", "", ".csv"]
    assert or_gzipped(tmp_path / "it") == tmp_path / "it"
    assert or_gzipped(tmp_path / "nowhere") == tmp_path / "nowhere"
    (tmp_path / "it").unlink()
    assert or_gzipped(tmp_path / "it") == tmp_path / "it.gz"


def test_a_fifo_is_read_as_it_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for content in (b"a\nb\n", gzip.compress(b"a\nb\n")):
        thread = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=[content])
        thread.start()
        assert [text for _, text in text_lines(tmp_path / "fifo")] == ["a", "b"]
        thread.join()


WHOLE = gzip.compress(b"some text\n" * 99)
BAD = {
    "cut off": (WHOLE[:-20], "it.gz is not a readable gzip file: "),
    "corrupt": (WHOLE[:20] + bytes(20) + WHOLE[40:], "it.gz is not a readable gzip file: "),
    "no gzip": (b"\x1f\x8b\x00", "it.gz is not a readable gzip file: "),
    "zip": (b"PK\x03\x04and more", "it.gz is a zip archive: give it as UTF-8 text, as it is or gzipped"),
    "bzip2": (bz2.compress(b"a\nb\n"), "it.gz is compressed by bzip2: give it as UTF-8 text"),
    "parquet": (b"PAR1\x15\x04", "it.gz is a parquet file: give it as UTF-8 text"),
    "UTF-16": ("a\n".encode("utf-16"), "it.gz is UTF-16: give it as UTF-8 text"),
    "Latin-1": ("a\nä\n".encode("latin-1"), "not UTF-8: 'utf-8' codec can't decode byte 0xe4"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_text_is_told_by_name(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    (tmp_path / "it.gz").write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        list(text_lines(tmp_path / "it.gz"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_of_the_reader_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"a")
    with pytest.raises(KeyError), opened(tmp_path / "it"):
        raise KeyError
