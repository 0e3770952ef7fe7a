"""`stoical rank`: JSON lines in, JSON lines out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stoical.commands.rank import rank_lines
from stoical.ranker import RankedDoc, Ranker
from tests.support.tiny_run import DOCS

Command = Callable[..., tuple[int, str, str]]


def lines(*objects: object) -> list[bytes]:
    return [json.dumps(each).encode() + b"\n" for each in objects]


def test_lines_become_results_in_order(loaded: Ranker) -> None:
    asked = lines(
        {"query": "query ba", "docs": DOCS, "query_id": 17},
        {"query": "query do", "docs": [{"docid": "ba", "text": "the text"}, "do"]},
        {"query": "query é", "docs": ["no"]},
    )
    found = list(rank_lines(loaded, [*asked[:1], b" \n", *asked[1:]], "file", top_k=1, batch_size=2))
    assert [list(each) for each in found] == [["query_id", "query", "results"], *[["query", "results"]] * 2]
    assert (found[0]["query_id"], found[2]["query"]) == (17, "query é")
    best = loaded.rank("query ba", DOCS)[0]
    assert found[0]["results"] == [{"rank": 1, "docid": best.docid, "score": pytest.approx(best.score, abs=5e-6)}]
    assert found[1]["results"][0].get("text") == ("the text" if found[1]["results"][0]["docid"] == "ba" else None)


def test_one_batch_is_held_at_a_time(loaded: Ranker) -> None:
    read = []

    def endless() -> Iterator[bytes]:
        while True:
            read.append(1)
            yield from lines({"query": "query ba", "docs": ["ba", "do"]})

    results = rank_lines(loaded, endless(), "file", batch_size=3)
    for count in range(1, 8):
        next(results)
        assert len(read) == 3 * -(-count // 3)


BAD_LINES = {
    "no JSON": (b"{\n", "file:3: not a JSON object on one line, in UTF-8"),
    "not UTF-8": (b'{"query": "\xff"}\n', "file:3: not a JSON object on one line, in UTF-8"),
    "a list": (b"[]\n", 'file:3: expected {"query": ..., "docs": [...]} and maybe "query_id", found something else'),
    "no docs": (b'{"query": "q"}\n', "file:3: expected "),
    "unknown key": (b'{"query": "q", "docs": ["ba"], "negatives": []}\n', "found the keys query, docs, negatives"),
    "bad document": (b'{"query": "q", "docs": [""]}\n', "file:3: query 'q': docs[0]: 'docid' is empty"),
    "same tokens": (b'{"query": "q", "docs": ["a", " a"]}\n', "file:3: query 'q': docIDs ' a' and 'a' have the same"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_after_the_batches_before_it(case: str, loaded: Ranker) -> None:
    bad, message = BAD_LINES[case]
    good = lines({"query": "query ba", "docs": DOCS})
    results = rank_lines(loaded, [*good, b"\n", bad, *good], "file", batch_size=1)
    assert next(results)["query"] == "query ba"
    with pytest.raises(ValueError) as error:  # noqa: PT011
        next(results)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="file:3: "):
        list(rank_lines(loaded, [*good, b"\n", bad, *good], "file", batch_size=8))


@pytest.fixture
def command(cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`stoical rank` as the shell would call it."""

    def call(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        return cli("rank", *words)

    return call


def test_the_command_reads_and_writes_files_and_pipes(
    command: Command, trained: Path, tmp_path: Path, loaded: Ranker
) -> None:
    asked = b"".join(lines(*({"query": f"query {name}", "docs": DOCS} for name in DOCS)))
    (tmp_path / "in.jsonl").write_bytes(asked)
    words = [f"checkpoint={trained}", "top_k=2", "batch_size=4"]
    status, out, err = command(*words, f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out.jsonl'}")
    assert (status, out, err) == (0, "", ""), "no progress bar where there is no terminal"
    written = (tmp_path / "out.jsonl").read_text()
    found = [json.loads(line) for line in written.splitlines()]
    assert [each["query"] for each in found] == [f"query {name}" for name in DOCS]
    for each in found:
        best = loaded.rank(each["query"], DOCS, top_k=2)
        assert [RankedDoc(**result).docid for result in each["results"]] == [result.docid for result in best]
    assert command(*words, stdin=asked) == (0, written, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["top_k=1"], "give checkpoint=, a run (its last checkpoint is taken) or a checkpoint"),
        (["checkpoint=/nowhere"], "checkpoint=/nowhere: no such directory"),
        (["checkpoint={run}", "input=/nowhere.jsonl"], "input=/nowhere.jsonl: no such file"),
        (["checkpoint={run}", "output=/nowhere/x.jsonl"], "output=/nowhere/x.jsonl: No such file or directory"),
        (["checkpoint={run}", "input={file}", "output={file}"], "is the input; give another file"),
        (["checkpoint={run}", "top_k=0"], "top_k=0 must be a whole number of at least 1"),
        (
            ["checkpoint={run}", "batch_size=two"],
            "batch_size: Value 'two' of type 'str' could not be converted",
        ),
        (["checkpoint={run}", "topk=2"], "setting 'topk' does not exist."),
        (["checkpoint={run}", "input={file}"], "in.jsonl:1: not a JSON object"),
    ],
)
def test_a_mistake_stops_the_command_with_one_line(
    words: list[str], message: str, command: Command, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("nonsense\n")
    status, out, err = command(*(word.format(run=trained, file=tmp_path / "in.jsonl") for word in words))
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert (tmp_path / "in.jsonl").read_text() == "nonsense\n"
