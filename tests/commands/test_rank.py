"""`stoical rank`: JSON lines in, JSON lines out."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stoical.commands import rank
from stoical.commands.rank import rank_lines
from stoical.docids.table import DocIDTable
from stoical.ranker import RankedDoc, Ranker
from tests.support.root import ROOT
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
    numbers = {name: pytest.approx(getattr(best, name), abs=5e-6) for name in ("score", "probability")}
    assert found[0]["results"] == [{"rank": 1, "docid": best.docid, **numbers}]
    assert found[1]["results"][0].get("text") == ("the text" if found[1]["results"][0]["docid"] == "ba" else None)


def test_a_line_without_a_probable_document_gets_no_results(loaded: Ranker) -> None:
    asked = lines({"query": "query ba", "docs": DOCS}, {"query": "query ba", "docs": ["ba"]})
    least = loaded.rank("query ba", DOCS)[0].probability + 1e-6
    found = list(rank_lines(loaded, asked, "file", min_probability=least))
    assert [len(each["results"]) for each in found] == [0, 1]
    assert found[1]["results"][0]["probability"] == 1


@pytest.mark.parametrize("beside", [True, False])
def test_batches_are_made_ahead_where_the_model_works_beside(
    loaded: Ranker, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "works_beside", lambda device: beside)
    read = []

    def endless() -> Iterator[bytes]:
        while True:
            read.append(1)
            yield from lines({"query": "query ba", "docs": ["ba", "do"]})

    results = rank_lines(loaded, endless(), "file", batch_size=3)
    for count in range(1, 8):
        next(results)
        assert len(read) == 3 * -(-count // 3) + 3 * beside


BAD_LINES = {
    "no JSON": (b"{\n", "file:3: not a JSON object on one line, in UTF-8"),
    "not UTF-8": (b'{"query": "\xff"}\n', "file:3: not a JSON object on one line, in UTF-8"),
    "a list": (b"[]\n", 'file:3: expected {"query": ..., "docs": [...]}, got []'),
    "no docs": (b'{"query": "q"}\n', 'file:3: expected {"query": ..., "docs": [...]}, found the keys query'),
    "half a character": (
        b'{"query": "q", "docs": ["ba"], "id": "\\ud800"}\n',
        "file:3: holds half of a surrogate pair",
    ),
    "deep": (
        b'{"query": "q", "docs": ["ba"], "id": ' + b"[" * 9_000 + b"]" * 9_000 + b"}\n",
        "file:3: not a JSON object",
    ),
    "no number": (b'{"query": "q", "docs": ["ba"], "price": NaN}\n', "file:3: holds NaN or Infinity, which JSON does"),
    "a yes": (b'{"query": true, "docs": ["ba"]}\n', "file:3: query True: 'query' must be a string, got True"),
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


def test_good_lines_before_a_bad_one_are_answered_whatever_the_batch(loaded: Ranker) -> None:
    good = lines(*({"query": f"query {name}", "docs": DOCS} for name in DOCS))
    for bad, message in BAD_LINES.values():
        results, found = rank_lines(loaded, [*good[:2], bad, *good[2:]], "file", batch_size=8), []
        with pytest.raises(ValueError) as error:  # noqa: PT011
            found.extend(results)
        assert [each["query"] for each in found] == ["query dokilu", "query ba"]
        assert message in str(error.value)


def test_bad_lines_are_recorded_and_the_others_answered(loaded: Ranker) -> None:
    good = lines({"query": "query ba", "docs": DOCS, "id": 1}, {"query": "query do", "docs": DOCS, "id": 2})
    same = b'{"query": "q", "docs": ["a", " a"], "id": 3}\n'
    asked = [good[0], b"\n", b"{\n", same, good[1]]
    found = list(rank_lines(loaded, asked, "file", batch_size=8, on_error="record"))
    assert [each.get("id") for each in found] == [1, None, 3, 2]
    assert found[1] == {"error": found[1]["error"]}
    assert found[1]["error"].startswith("file:3: not a JSON object on one line")
    assert list(found[2]) == ["error", "query", "id"]
    assert found[2]["error"].startswith("file:4: query 'q': docIDs ' a' and 'a' have the same")
    alone = [next(rank_lines(loaded, [line], "file"))["results"] for line in good]
    for line, results in zip((found[0], found[3]), alone, strict=True):
        assert [each["docid"] for each in line["results"]] == [each["docid"] for each in results]


def test_what_else_a_line_has_passes_through(loaded: Ranker) -> None:
    line = {"source": {"page": [1, None]}, "docs": ["ba", "do"], "query": "é", "query_id": 7, "results": 0, "error": 0}
    (found,) = rank_lines(loaded, lines(line), "file")
    assert list(found) == ["query_id", "query", "source", "results"]
    assert (found["source"], found["query_id"], len(found["results"])) == ({"page": [1, None]}, 7, 2)


def test_numbers_are_their_digits(loaded: Ranker) -> None:
    numbers = lines({"query": 5, "docs": [1, 2.0, {"docid": 30, "text": "x"}]})
    texts = lines({"query": "5", "docs": ["1", "2", {"docid": "30", "text": "x"}]})
    assert list(rank_lines(loaded, numbers, "file")) == list(rank_lines(loaded, texts, "file"))


def test_item_ids_are_looked_up_however_they_are_written(loaded: Ranker) -> None:
    items = DocIDTable(["1", "2"], ["ba", "do"], ["", "the text"])
    (found,) = rank_lines(loaded, lines({"query": "q", "docs": [1, " 2 "]}), "file", items=items)
    assert {each["item_id"]: each["docid"] for each in found["results"]} == {"1": "ba", "2": "do"}
    with pytest.raises(ValueError, match="file:1: 3 is not an item of items=; with it, docs is a list of item ids"):
        list(rank_lines(loaded, lines({"query": "q", "docs": [1, 3]}), "file", items=items))


def test_items_that_share_a_docid_are_told_by_their_ids(loaded: Ranker) -> None:
    items = DocIDTable(["1", "2", "3"], ["ba", "do", "ba"], ["", "", ""])
    asked = lines({"query": "q", "docs": [1, 2, 3]}, {"query": "q", "docs": [3, 2]})
    bad, good = rank_lines(loaded, asked, "file", items=items, on_error="record")
    assert bad["error"].startswith("file:1: items '1' and '3' share the docID 'ba', which no model tells apart")
    assert {each["item_id"] for each in good["results"]} == {"2", "3"}


class Pipe:
    """`stoical rank` in a process of its own, which is written to and read from line by line."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "stoical", "rank", *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, bufsize=0, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)

    def write(self, *objects: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"".join(each if isinstance(each, bytes) else lines(each)[0] for each in objects))

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], 100)[0], "no answer"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(timeout=100)
        return self.process.returncode, out, err


def test_a_program_writes_a_line_and_reads_its_answer(trained: Path) -> None:
    """With batch_size=8, on a real pipe, which stays open: nothing waits for a full batch."""
    pipe = Pipe(f"checkpoint={trained}", "on_error=record", "top_k=1")
    try:
        for number in range(3):
            pipe.write({"query": number, "docs": [1, "ba"], "mine": number})
            answer = pipe.read()
            assert (answer["query"], answer["mine"], len(answer["results"])) == (str(number), number, 1)
        pipe.write(
            {"query": "a", "docs": ["ba"]}, b"{oops\n", {"query": "b", "docs": []}, {"query": "c", "docs": ["ba"]}
        )
        found = [pipe.read() for _ in range(4)]
        assert [each.get("query") for each in found] == ["a", None, "b", "c"]
        assert ["error" in each for each in found] == [False, True, True, False]
        whole = lines({"query": "d", "docs": ["ba"]})[0]
        pipe.write(whole[:10])
        time.sleep(0.2)
        pipe.write(whole[10:], b'{"query": "e", "docs": ["do"]}')  # the last line without its end
        assert pipe.read()["query"] == "d"
        status, out, err = pipe.end()
        assert json.loads(out)["query"] == "e"
        assert (status, err) == (0, b"2 lines could not be ranked: their results have an error\n")
    finally:
        pipe.process.kill()


def test_a_bad_line_on_a_pipe_stops_after_the_good_ones(trained: Path) -> None:
    pipe = Pipe(f"checkpoint={trained}")
    try:
        pipe.write({"query": "a", "docs": ["ba"]}, {"query": "b", "docs": ["ba"]}, b"{oops\n")
        assert [pipe.read()["query"], pipe.read()["query"]] == ["a", "b"]
        status, out, err = pipe.end()
        assert (status, out, err.count(b"\n")) == (2, b"", 1)
        assert err.startswith(b"error: stdin:3: not a JSON object")
    finally:
        pipe.process.kill()


def test_a_gzipped_input_with_a_mark_and_crlf(command: Command, trained: Path, tmp_path: Path) -> None:
    asked = b"".join(lines(*({"query": f"query {name}", "docs": DOCS} for name in DOCS)))
    plain = command(f"checkpoint={trained}", stdin=asked)
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + asked.replace(b"\n", b"\r\n")))
    assert command(f"checkpoint={trained}", f"input={path}") == plain


class Full(io.BytesIO):
    """A file on a disk that is full."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line(command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "_opened", lambda path: Full())
    status, _, err = command(f"checkpoint={trained}", "output=out", stdin=lines({"query": "q", "docs": DOCS})[0])
    assert (status, err) == (2, "error: output=out: No space left on device; what was written before is there\n")


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
        (["checkpoint={run}", "top_k=0"], "top_k=0 must be at least 1"),
        (
            ["checkpoint={run}", "batch_size=two"],
            "batch_size: Value 'two' of type 'str' could not be converted",
        ),
        (["checkpoint={run}", "min_probability=1.5"], "min_probability=1.5 must lie between 0 and 1"),
        (["checkpoint={run}", "temperature=0"], "temperature=0.0 must be a finite number above 0"),
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
