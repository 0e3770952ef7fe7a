"""JSON lines: what is read, what is refused, and where it says that a line stands."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stoical.data.dataset import load_split
from stoical.data.files import (
    check_dataset,
    json_value,
    jsonl_lines,
    load_manifest,
    numbered,
    raw_rows,
    split_sha256,
)


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


def test_json_lines_may_be_gzipped(tmp_path: Path) -> None:
    line = b'\xef\xbb\xbf{"query_id": "q", "query": "x", "docs": [{"docid": "d"}]}\r\n'
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl.gz").write_bytes(gzip.compress(line))
    (tmp_path / "manifest.json").write_text("{}")
    check_dataset(tmp_path)
    assert [row.query for row in load_split(tmp_path, "train")] == ["x"]
    assert [where for where, _ in raw_rows(tmp_path / "test.jsonl.gz")] == [f"{tmp_path}/test.jsonl.gz:1"]
    assert len(split_sha256(tmp_path, "train")) == 64
    (tmp_path / "train.jsonl").write_bytes(line)
    with pytest.raises(ValueError, match="several files for 'train'"):
        load_split(tmp_path, "train")


MANIFESTS = {
    '{"name": [1, {"a": null}]}': "'name' must be text, got [1, {'a': None}]",
    '{"licence": {"x": 1}}': "'licence' must be text, got {'x': 1}",
    '{"files": 5}': "'files' must be an object, got 5",
    '{"splits": "no"}': "'splits' must be an object, got 'no'",
    '{"tool": true}': "'tool' must be text, got True",
    '{"version": true}': "'version' must be text, got True",
    '{"options": []}': "'options' must be an object, got []",
    '{"name": "\\ud800"}': "holds half of a surrogate pair, which is not UTF-8",
    '{"x": ["\\ud800"]}': "holds half of a surrogate pair, which is not UTF-8",
    "[]": "must hold a JSON object, got []",
    "null": "must hold a JSON object, got None",
    "{": "is not valid JSON: ",
    "[" * 100_000: "is not valid JSON: ",
    '{"x": ' + "9" * 5_000 + "}": "is not valid JSON: ",
}


@pytest.mark.parametrize("content", MANIFESTS, ids=[str(number) for number in range(len(MANIFESTS))])
def test_a_manifest_of_odd_types_is_told_by_file_and_key(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_manifest(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/manifest.json")
    assert MANIFESTS[content] in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_manifest_of_ones_own(tmp_path: Path) -> None:
    """Nulls are as good as nothing; what stoical does not read may be anything."""
    said = {"name": None, "files": None, "source": ["a", "b"], "version": 2, "seed": "none", "mine": [{}]}
    (tmp_path / "manifest.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(said).encode())
    kept = {"source": ["a", "b"], "version": 2, "seed": "none", "mine": [{}]}
    assert load_manifest(tmp_path) == kept
