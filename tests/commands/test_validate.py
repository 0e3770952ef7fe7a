"""`stoical validate`: all problems by file and line, counts of valid data, token statistics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoical.data.rows import parse_row, row_problems
from tests.support.commands import run
from tests.support.ranking_rows import BAD_ROWS, ROWS, WHERE, row, write_as
from tests.support.root import ROOT
from tests.support.small_data import write_dataset

Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Call the command: (exit status, lines of stdout and stderr)."""

    def call(*words: object) -> tuple[int, list[str]]:
        status = run("validate", *map(str, words))
        out, err = capsys.readouterr()
        return status, [*out.splitlines(), *err.splitlines()]

    return call


def lines_file(path: Path, *rows: Any) -> Path:
    path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in rows))
    return path


@pytest.mark.parametrize(("raw", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_the_problems_of_a_bad_row_hold_what_loading_says(raw: Any, message: str) -> None:
    found = row_problems(raw, WHERE)
    assert [each for each in found if message in each]
    assert all(each.startswith(f"{WHERE}: ") for each in found)


VALUES = st.sampled_from([None, 0, 1, 2, "", "a", "b", [], {}])
DOCUMENTS = st.lists(VALUES | st.dictionaries(st.sampled_from(["docid", "text", "rank", "x"]), VALUES), max_size=3)
RAW_ROWS = st.dictionaries(st.sampled_from(["query_id", "query", "zz"]), VALUES) | st.fixed_dictionaries(
    {"query_id": st.just("q"), "query": st.just("q"), "docs": DOCUMENTS | VALUES}, optional={"negatives": DOCUMENTS}
)


@given(RAW_ROWS)
def test_problems_are_found_exactly_where_loading_fails(raw: Any) -> None:
    try:
        parse_row(raw, WHERE)
        said = []
    except ValueError as error:
        said = [str(error)]
    assert set(said) <= set(row_problems(raw, WHERE))
    assert bool(said) == bool(row_problems(raw, WHERE))


def test_every_problem_of_a_file_is_told_with_its_line(tmp_path: Path, check: Check) -> None:
    twice = row(query_id=1, query=" ", docs=[{"docid": "a"}, {"docid": ""}, "x"])
    path = lines_file(tmp_path / "mine.jsonl", row(), "{oops}\n", "\n", twice, row(docs=[{"docid": "a", "rank": 2}]))
    status, told = check(path)
    assert status == 2
    assert told[1:-1] == [
        f"{path}:4: 'query_id' must be a string, got 1",
        f"{path}:4: 'query' is empty",
        f"{path}:4: docs[1]: 'docid' is empty",
        f"{path}:4: docs[2]: expected an object like {{\"docid\": ...}}, got 'x'",
        f"{path}:5: docs[0] has rank 2, but only 0 docs before it; ranks start at 1",
        f"{path}:5: query_id 'q' was used before, at {path}:1; rename or merge one",
    ]
    assert told[0].startswith(f"{path}:2: not a JSON object on one line, in UTF-8: ")
    assert told[-1] == "7 problems"


def test_the_limit_is_of_what_is_shown_not_of_what_is_counted(tmp_path: Path, check: Check) -> None:
    path = lines_file(tmp_path / "mine.jsonl", *[row(query_id=str(n), query="") for n in range(50)])
    status, told = check(path, "limit=3")
    assert (status, told[:3]) == (2, [f"{path}:{line}: 'query' is empty" for line in (1, 2, 3)])
    assert told[3:] == ["50 problems, 47 of them not shown (limit=3)"]
    assert len(check(path)[1]) == 21


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_tables_are_checked_by_index(kind: str, tmp_path: Path, check: Check) -> None:
    where = write_as(kind, tmp_path / "data", [row(query_id="q1"), row(query_id="q2", docs=[{"docid": "a"}] * 2)])
    status, told = check(where.removesuffix("["))
    assert status == 2
    assert told[0] == f"{where}1]: the docid 'a' occurs twice among 'docs' and 'negatives'; keep one"


def test_counts_by_hand(tmp_path: Path, check: Check) -> None:
    more = [row(docs=[{"docid": "mammal", "text": "warm"}]), row(query_id="q3", query="cat")]
    path = lines_file(tmp_path / "mine.jsonl", *ROWS, *more)
    assert check(path) == (
        0,
        [
            f"{path}: valid",
            "  queries: 4; documents a query: 1 to 3, 2.0 on average, 8 in all",
            "  negatives a query: 0 to 2, 0.5 on average, 2 in all",
            "  distinct docIDs: 7 for 10 documents and negatives",
            "  queries with one document, which leave nothing to rank: 1",
            "  queries with ties: 1",
            "  queries whose text comes again, such as ['deer']: 2",
            "  documents and negatives without text: 7",
        ],
    )
    lines_file(path, row(docs=[{"docid": "a", "text": "one"}, {"docid": "b", "text": "two"}]))
    assert not [line for line in check(path)[1] if "several texts" in line]
    lines_file(path, *[row(query_id=text, docs=[{"docid": "a", "text": text}]) for text in ("one", "two", "three")])
    assert "  docIDs with several texts, such as ['a']: 1" in check(path)[1]


def test_a_directory_is_checked_as_a_whole(tmp_path: Path, check: Check) -> None:
    data = tmp_path / "data"
    data.mkdir()
    status, told = check(data)
    assert status == 2
    assert told[0] == f"{data} has no train split: add train.jsonl, train.parquet or train/"
    assert told[2].startswith(f"{data}/manifest.json is missing")
    (data / "manifest.json").write_text("{}")
    for split in ("train", "test"):
        lines_file(data / f"{split}.jsonl", row(query="deer"), row(query_id="q2", query=split))
    status, told = check(data)
    assert (status, told[-1]) == (0, "queries in train and in test: 1, such as ['deer']")
    assert [line for line in told if line.endswith("valid")] == [f"{data}/{s}.jsonl: valid" for s in ("train", "test")]
    lines_file(data / "test.jsonl", "\n")
    write_as("parquet", data, ROWS)
    status, told = check(data)
    assert told[:2] == [
        f"{data} has train.jsonl and train.parquet for 'train'; keep one of them",
        f"{data / 'test.jsonl'} holds no rows",
    ]


def test_what_cannot_be_checked_is_told_in_one_line(tmp_path: Path, check: Check) -> None:
    (tmp_path / "broken.parquet").write_text("not parquet")
    (tmp_path / "mine.csv").write_text("query")
    for words, message in [
        ([tmp_path / "broken.parquet"], "broken.parquet is not a readable parquet file"),
        ([tmp_path / "nowhere"], "there is no "),
        ([tmp_path / "mine.csv"], "mine.csv: a split is a .jsonl or a .parquet file"),
        (["limit=3"], "give one file or directory to validate, not 0"),
        ([tmp_path, tmp_path], "give one file or directory to validate, not 2"),
        ([tmp_path, "limit=0"], "limit=0 must be at least 1"),
        ([lines_file(tmp_path / "a.jsonl", row()), "prompt.templat=x"], "prompt.templat"),
        ([tmp_path / "a.jsonl", "recipe=wordnet_ntp,small"], "give the dataset directory, not one split"),
    ]:
        status, told = check(*words)
        assert status == 2
        assert message in told[0]


def test_token_statistics_and_docids_that_tokens_cannot_tell_apart(tmp_path: Path, check: Check) -> None:
    write_dataset(tmp_path / "data")
    small = ["recipe=wordnet_alpha2,small", "tokenizer.vocab_size=300"]
    status, told = check(tmp_path / "data", *small, "prompt.max_length=40")
    assert status == 0
    assert "  too long for prompt.max_length=40: 1 queries, which lose 1 documents, the lowest-ranked" in told
    assert "  prompt tokens: 8 to 34, 18.0 on average, 432 in all" in told
    assert "  docID tokens, terminator included: 2 to 4, 2.9 on average, 232 in all" in told
    status, told = check(tmp_path / "data", *small, "prompt.max_length=12")
    assert status == 2
    assert "leaves" in told[0]
    assert "raise prompt.max_length" in told[0]
    same = row(docs=[{"docid": "ba"}, {"docid": "do"}, {"docid": " ba"}])
    lines_file(tmp_path / "data" / "test.jsonl", same)
    status, told = check(tmp_path / "data", *small)
    message = "docIDs 'ba' and ' ba' have the same token ids, which no model tells apart; rename one"
    assert (status, told) == (2, [f"{tmp_path / 'data' / 'test.jsonl'}:1: {message}", "1 problems"])


def test_python_m_stoical_is_the_command(tmp_path: Path) -> None:
    path = lines_file(tmp_path / "mine.jsonl", row(query=""))
    command = [sys.executable, "-m", "stoical", "validate", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.splitlines() == [f"{path}:1: 'query' is empty", "1 problems"]
