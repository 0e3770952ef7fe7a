"""JSON lines: what is read, what is refused, and where it says that a line stands."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stoical.data.files import json_value, jsonl_lines, numbered, raw_rows


def test_blank_lines_count_and_are_not_read(tmp_path: Path) -> None:
    lines = [b"{}\n", b"\n", b" \t\r\n", b"[1]"]
    assert list(numbered(lines)) == [(1, b"{}\n"), (4, b"[1]")]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(lines))
    assert list(jsonl_lines(path)) == [(f"{path}:1", b"{}\n"), (f"{path}:4", b"[1]")]


def test_a_mark_at_the_start_and_blanks_are_no_part_of_the_json() -> None:
    assert json_value(b'\xef\xbb\xbf{"a": "\xc3\xa4"}\r\n', "it:1") == {"a": "ä"}
    assert json_value(b' {"a": "\\u00e4"}\n', "it:1") == {"a": "ä"}


@pytest.mark.parametrize(
    "line",
    [b"{", b"", b"\xff", b'"\xed\xa0\x80"', '{"a": 1}'.encode("utf-16"), b"[" * 100_000, b"1" * 5_000],
    ids=["syntax", "nothing", "not UTF-8", "half a surrogate pair", "UTF-16", "deep", "long number"],
)
def test_what_is_not_json_in_utf8_is_refused_in_one_line(line: bytes) -> None:
    with pytest.raises(ValueError, match="it:7: not a JSON object on one line, in UTF-8: ") as error:
        json_value(line, "it:7")
    assert "\n" not in str(error.value)


def test_rows_of_a_parquet_file_are_placed_across_its_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"query_id": f"q{i}", "docs": [{"docid": "a"}] * (i % 3)} for i in range(2_500)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    assert list(raw_rows(path)) == [(f"{path}[{i}]", row) for i, row in enumerate(rows)]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"rows\.parquet is not a readable parquet file: "):
        list(raw_rows(path))
