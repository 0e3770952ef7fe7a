"""data_prep/tables.py and item_texts.py: every kind of file gives the same cells, and every bad row has its place."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dropped import Dropped
from data_prep.item_texts import ItemText, read_texts
from data_prep.tables import read_table

ROWS = [{"query": "a", "document": 'say "b", c', "score": "1"}, {"query": "d", "document": None, "score": "2"}]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, kind: str) -> Path:
    path = path / f"rows{kind}"
    if kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    elif kind == ".csv":
        path.write_text('\ufeffquery,document,score\na,"say ""b"", c",1\n\nd,,2\n', encoding="utf-8")
    elif kind == ".tsv":
        path.write_text('query\tdocument\tscore\na\tsay "b", c\t1\nd\t\t2\n')
    elif kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    return path


TABLE = ["[0]", "[1]"]
PLACES = {".jsonl": [":1", ":3"], ".csv": [":2", ":4"], ".tsv": [":2", ":3"], ".parquet": TABLE, "": TABLE}


@pytest.mark.parametrize("kind", PLACES)
def test_every_kind_gives_the_same_cells(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    table = read_table(path, ("query", "document"), ("score", "more"))
    assert list(table.rows("query", "document", "score", "more")) == [
        (f"{path.name}{PLACES[kind][0]}", ("a", 'say "b", c', "1", None)),
        (f"{path.name}{PLACES[kind][1]}", ("d", None, "2", None)),
    ]
    with pytest.raises(ValueError, match=r"rows\S* has no column title, x \(it has: document, query, score\)"):
        read_table(path, ("query", "title", "x"))


def test_a_cell_over_several_lines_stands_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('query,score\n"two\nlines",1\nb,2\n')
    assert [where for where, _ in read_table(path, ("query",)).rows("query")] == ["rows.csv:2", "rows.csv:4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv has no column query (it has: none)"),
        ("a.csv", b"query,score\na\n", "a.csv:2: 1 cells, but the header has 2"),
        ("a.csv", b"query,query\n", "a.csv:1: a column's name comes twice"),
        ("a.csv", b'query\n"a\n', "a.csv:2: unexpected end of data"),
        ("a.csv", b'query\n"a"b\n', "a.csv:2: "),
        ("a.csv", b"query\na\n\xff\n", "a.csv: not UTF-8"),
        ("a.tsv", b"query\tscore\na\tb\tc\n", "a.tsv:2: 3 cells"),
        ("a.jsonl", b'{"query": 1}\n{\n', "a.jsonl:2: not a JSON object"),
        ("a.parquet", b"PAR1", "a.parquet is not a readable parquet file"),
        ("a.xlsx", b"", "a.xlsx: expected a .parquet, .jsonl, .csv or .tsv file"),
    ],
)
def test_bad_files_are_told_with_the_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_table(tmp_path / name, ("query",))
    assert message in str(error.value)


def test_a_corrupt_parquet_in_a_datasets_directory(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(ValueError, match="dir is not a single dataset written by datasets' save_to_disk"):
        read_table(tmp_path / "dir", ("query",))
    with pytest.raises(ValueError, match="there is no file"):
        read_table(tmp_path / "nowhere", ("query",))


def test_texts_of_beir_lines_tables_and_tabs(tmp_path: Path) -> None:
    first = {"_id": "1", "title": "T", "text": "x", "metadata": {}}
    lines = [first, {"_id": 2, "text": " y "}, {"_id": "3", "text": ""}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_texts(tmp_path / "a.jsonl", "document", {"1", "2", "3"}, Dropped())
    assert list(found) == ["1", "2", "3"]
    assert [found["1"].chosen(choice) for choice in ("both", "title", "text", "none")] == ["T x", "T", "x", None]
    assert found["2"] == ItemText(None, "y", f"{tmp_path}/a.jsonl:2")
    assert found["3"].chosen("both") is None
    assert list(read_texts(tmp_path / "a.jsonl", "document", {"2"}, Dropped())) == ["2"]
    (tmp_path / "b.tsv").write_text("1\tx\tT\n2\ty\n")
    assert read_texts(tmp_path / "b.tsv", "query", None, Dropped())["1"].chosen("both") == "T x"
    (tmp_path / "c.csv").write_text("id,title\n1,T\n,U\n1,V\n")
    dropped = Dropped()
    assert list(read_texts(tmp_path / "c.csv", "item", None, dropped)) == ["1"]
    assert dropped.rows == [("item without id", "c.csv:3", "U"), ("item id again", "c.csv:4", "1")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"doc": "1", "text": "x"}\n', "a.jsonl:1 needs _id or id, and text or title (it has: doc, text)"),
        ("a.jsonl", '{"_id": "1", "text": ["x"]}\n', "a.jsonl:1: text must be text, got ['x']"),
        ("a.csv", "id,name\n1,x\n", "a.csv needs _id or id, and text or title (it has: id, name)"),
        ("a.tsv", "1 x\n", "a.tsv:1: expected id, text and perhaps title by tabs, got 1 cells"),
    ],
)
def test_bad_texts_are_told_with_the_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_texts(tmp_path / name, "document", None, Dropped())
    assert message in str(error.value)
