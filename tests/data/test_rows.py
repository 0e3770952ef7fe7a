"""stoical/data.py: what a valid row gives, how each bad row is told, and that the three formats agree."""

from __future__ import annotations

import hashlib
import json
import os
import re
import timeit
from pathlib import Path
from typing import Any

import datasets
import pytest

from stoical.common.files import file_sha256
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.data.rows import Doc, RankingRow, parse_row
from tests.support.ranking_rows import BAD_ROWS, ROWS, WHERE, ranked, row, write_as, write_jsonl

EXPECTED = [
    RankingRow(
        "q1",
        "deer",
        (Doc("ruminant", "chews twice", 1), Doc("mammal", None, 1)),
        (Doc("solarization", "a photograph"), Doc("café")),
    ),
    RankingRow("q2", "cat", (Doc("feline"), Doc("mammal"), Doc("café"))),
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_full_row_is_parsed_field_by_field() -> None:
    assert [parse_row(raw, WHERE) for raw in ROWS] == EXPECTED


def test_ranks_are_the_given_ones_or_the_positions() -> None:
    assert parse_row(row(docs=ranked(1, 2, 2, 4)), WHERE).ranks == (1, 2, 2, 4)
    assert parse_row(row(docs=ranked(None, None, None)), WHERE).ranks == (1, 2, 3)


def test_grades_are_kept_beside_the_ranks() -> None:
    docs = [{"docid": "a", "grade": 3, "rank": 1}, {"docid": "b", "grade": -0.5, "rank": 2}, {"docid": "c", "rank": 3}]
    parsed = parse_row(row(docs=docs, negatives=[{"docid": "x", "grade": 0}, {"docid": "y"}]), WHERE)
    assert [doc.grade for doc in parsed.docs] == [3.0, -0.5, None]
    assert [doc.grade for doc in parsed.negatives] == [0.0, None]
    assert RankingRow.of("deer", [{"docid": "a", "grade": 2}]).docs[0].grade == 2.0


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "save_to_disk"])
def test_grades_are_kept_in_every_format(kind: str, tmp_path: Path) -> None:
    graded = row(
        docs=[{"docid": "a", "grade": 2.5}, {"docid": "b", "grade": None}], negatives=[{"docid": "x", "grade": 0.0}]
    )
    write_as(kind, tmp_path / "deer", [graded, row(query_id="q2", docs=[{"docid": "a"}], negatives=[])])
    first, second = load_split(tmp_path / "deer", "train")
    assert [doc.grade for doc in (*first.docs, *first.negatives)] == [2.5, None, 0.0]
    assert [doc.grade for doc in second.docs] == [None]


def test_null_means_absent_where_a_field_is_optional() -> None:
    raw = row(docs=[{"docid": "a", "text": None, "rank": None}], negatives=None)
    assert parse_row(raw, WHERE) == RankingRow("q", "deer", (Doc("a"),))


@pytest.mark.parametrize(("raw", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_told_with_its_place(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parse_row(raw, WHERE)
    assert str(error.value).startswith(f"{WHERE}: ")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "save_to_disk"])
def test_every_format_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    write_as(kind, tmp_path / "deer", ROWS)
    dataset = load_split(tmp_path / "deer", "train")
    assert dataset.name == "deer/train"
    assert (len(dataset), list(dataset)) == (2, EXPECTED)
    assert (dataset[-1], dataset[:1]) == (EXPECTED[1], EXPECTED[:1])
    with pytest.raises(IndexError):
        dataset[2]


@pytest.mark.parametrize(("kind", "number"), [("jsonl", "3:"), ("parquet", "2]:"), ("save_to_disk", "2]:")])
def test_loading_names_the_bad_row(kind: str, number: str, tmp_path: Path) -> None:
    place = write_as(kind, tmp_path / "deer", [*ROWS, row(docs=[{"docid": "a"}, {"docid": "a"}])])
    with pytest.raises(ValueError, match="docid 'a' occurs twice") as error:
        load_split(tmp_path / "deer", "train")
    assert str(error.value).startswith(place + number)


@pytest.mark.parametrize(("kind", "first"), [("jsonl", "1"), ("parquet", "0]"), ("save_to_disk", "0]")])
def test_a_query_id_used_twice_names_both_rows(kind: str, first: str, tmp_path: Path) -> None:
    place = write_as(kind, tmp_path / "deer", [*ROWS, row(query_id="q1")])
    message = re.escape(f"query_id 'q1' was used before, at {place}{first}")
    with pytest.raises(ValueError, match=message + "$"):
        load_split(tmp_path / "deer", "train")


def test_bad_rows_are_found_beyond_the_first_batch(tmp_path: Path) -> None:
    rows = [row(query_id=str(i)) for i in range(2500)]
    write_jsonl(tmp_path, rows)
    assert [loaded.query_id for loaded in load_split(tmp_path, "train")] == [raw["query_id"] for raw in rows]
    place = write_as("parquet", tmp_path / "bad", [*rows, row(query=" ")])
    with pytest.raises(ValueError, match=re.escape(f"{place}2500]: 'query' is empty")):
        load_split(tmp_path / "bad", "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query_id": "q2", "query" "cat"}', "column 28"),
        (b'{"query_id": "q2", "query": "caf\xe9"}', "utf-8"),
        (b'{"query_id": "q2",', "not a JSON object on one line"),
        (b"null", "expected an object like"),
    ],
)
def test_a_line_that_is_no_json_object_is_told_by_number(line: bytes, message: str, tmp_path: Path) -> None:
    first = json.dumps(ROWS[0]).encode()
    (tmp_path / "train.jsonl").write_bytes(first + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=message) as error:
        load_split(tmp_path, "train")
    assert str(error.value).startswith(f"{tmp_path}/train.jsonl:3: ")


def test_byte_order_mark_and_blank_lines_are_no_error(tmp_path: Path) -> None:
    lines = [json.dumps(raw, ensure_ascii=False).encode() for raw in ROWS]
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines))
    assert list(load_split(tmp_path, "train")) == EXPECTED


def test_what_is_missing_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no dataset directory .*nowhere") as error:
        load_split(tmp_path / "nowhere", "train")
    assert f"stoical prepare wordnet out={tmp_path}/nowhere" in str(error.value)
    path = write_jsonl(tmp_path, ROWS)
    with pytest.raises(ValueError, match=r"looked for test\.jsonl, .* test/, found train\.jsonl;") as error:
        load_split(tmp_path, "test")
    assert f"stoical prepare wordnet out={tmp_path}" in str(error.value)
    with pytest.raises(ValueError, match=r"train.jsonl is a file; give the dataset directory"):
        load_split(path, "train")


def test_a_split_given_twice_or_without_rows_is_an_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path, [], "test")
    with pytest.raises(ValueError, match=r"test\.jsonl holds no rows"):
        load_split(tmp_path, "test")
    write_jsonl(tmp_path, ROWS)
    write_as("parquet", tmp_path, ROWS)
    with pytest.raises(ValueError, match=r"several files for 'train' \(train\.jsonl, train\.parquet\)"):
        load_split(tmp_path, "train")


def test_files_of_the_wrong_kind_are_told(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"train\.parquet is not a readable parquet file"):
        load_split(tmp_path, "train")
    write_as("parquet", tmp_path, ROWS)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:4] + bytes(64) + whole[68:])  # a page, while the footer is right
    with pytest.raises(ValueError, match=r"train\.parquet is not a readable parquet file"):
        load_split(tmp_path, "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="test is not a single dataset written by datasets' save_to_disk"):
        load_split(tmp_path, "test")
    datasets.DatasetDict({"a": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match="both is not a single dataset"):
        load_split(tmp_path, "both")


def test_a_parquet_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    write_as("parquet", tmp_path, ROWS)
    assert load_split(tmp_path, "train")[0].query == "deer"
    write_as("parquet", tmp_path, [row(query="roe")])
    assert load_split(tmp_path, "train")[0].query == "roe"


def test_a_row_is_cheap_to_get(tmp_path: Path) -> None:
    docs = [{"docid": f"d{i}"} for i in range(8)]
    write_as("parquet", tmp_path, [row(query_id=str(i), docs=docs) for i in range(3000)])
    dataset = load_split(tmp_path, "train")
    best = min(timeit.repeat(lambda: dataset[1234], number=50, repeat=10)) / 50
    assert best < 100e-6, f"{best * 1e6:.0f} microseconds"


def test_manifest_and_checksum(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        load_manifest(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text('{"source": "me"}')
    assert load_manifest(tmp_path) == {"source": "me"}
    assert file_sha256(path) == hashlib.sha256(b'{"source": "me"}').hexdigest()
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        load_manifest(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json must hold a JSON object"):
        load_manifest(tmp_path)
    with pytest.raises(ValueError, match="there is no dataset directory"):
        load_manifest(tmp_path / "nowhere")


def test_a_row_in_python_has_weights_too() -> None:
    made = RankingRow.of("deer", [{"docid": "a", "weight": 2, "teacher_score": -0.5}, "b"], weight=0.5)
    assert (made.weight, made.docs) == (0.5, (Doc("a", weight=2.0, teacher_score=-0.5), Doc("b")))
    with pytest.raises(ValueError, match="query 'deer': 'weight' must not be negative, got -1"):
        RankingRow.of("deer", ["a"], weight=-1)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "save_to_disk"])
def test_weights_in_every_format(kind: str, tmp_path: Path) -> None:
    """A weight of 1 is as none."""
    plain, one = row(), row(weight=1, docs=[{"docid": "a", "weight": 1.0}])
    for place, (raw, weighted) in enumerate(((plain, False), (one, False), (row(weight=0), True))):
        write_as(kind, tmp_path / str(place), [raw | {"query_id": "q"}])
        split = load_split(tmp_path / str(place), "train")
        assert split.weighted == weighted
        assert split[0].weight == raw.get("weight")


@pytest.mark.parametrize("name", ["deer [v1]", "d*r", "what?", "data,{x}"])
def test_a_directory_may_have_a_name_that_is_a_pattern(name: str, tmp_path: Path) -> None:
    write_as("parquet", tmp_path / "deer", [row(query_id="other")])
    write_as("parquet", tmp_path / "plain", [row()])
    (tmp_path / "plain").rename(tmp_path / name)
    assert [one.query_id for one in load_split(tmp_path / name, "train")] == ["q"]


def test_a_file_of_the_same_name_and_time_is_read_anew(tmp_path: Path) -> None:
    write_as("parquet", tmp_path / "deer", [row()])
    path = tmp_path / "deer" / "train.parquet"
    before = path.stat()
    assert load_split(tmp_path / "deer", "train")[0].query == "deer"
    path.unlink()
    write_as("parquet", tmp_path / "other", [row(query="cats")])
    (tmp_path / "other" / "train.parquet").rename(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as an archive or `cp -p` leaves it
    assert load_split(tmp_path / "deer", "train")[0].query == "cats"
