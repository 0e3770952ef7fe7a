"""Rank documents with a trained model: exact scores of all documents of a query, one forward a batch of queries.

  stoical rank checkpoint=DIR [input=FILE] [output=FILE] [items=FILE] [top_k=K] [batch_size=B] [key=value]

Reads JSON lines {"query": ..., "docs": [...]}, a document being a docID or {"docid": ..., "text": ...}, and writes for
each line, in order, {"query": ..., "results": [{"rank": 1, "docid": ..., "score": ..., "probability": ...}, ...]}, with
the documents' texts and whatever else the line has, such as "query_id". Numbers as queries and docIDs are their digits.
input=- and output=-, the defaults, are stdin and stdout; input= may be gzipped. Lines are scored batch_size at a time,
and fewer where no more input is waiting, so that a program can write a line and read its answer. Scores are
log-probabilities in nats. checkpoint is a run (its last checkpoint is taken) or a checkpoint, and other settings are
those of its recipe, such as prompt.max_length=2048. model.dtype=bfloat16 takes half the memory of float32 weights (15
instead of 29 GB for 7 billion); it moved the scores of the quickstart's model by up to 0.01 nats.

"probability" is the document's among those of its line. With min_probability=, a line whose first document has less
gets no results: "results": [].

A line that cannot be ranked stops the command, after the results of those before it; with on_error=record it becomes
{"error": ..., "query": ...}, and the lines after it are ranked.

With items=, a table of docIDs that data_prep made (items.parquet), documents are item ids: their docIDs and texts are
looked up there, and results have their "item_id".
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from stoical.commands.shell import Command, Given, quiet_libraries
from stoical.commands.stream import arriving, batches, one_ahead
from stoical.common.devices import works_beside
from stoical.common.ids import as_id
from stoical.common.numbers import above_zero, at_least, within
from stoical.common.options import option
from stoical.common.progress import progress
from stoical.common.text_files import opened
from stoical.data.files import json_line
from stoical.docids.table import DocIDTable
from stoical.runs.find import find_checkpoint

if TYPE_CHECKING:
    from stoical.ranker import Document, Prepared, RankedDoc, Ranker

BATCH_SIZE = 8
SHAPE = '{"query": ..., "docs": [...]}'
OURS = ("docs", "results", "error")  # keys that are not passed through: what is asked, and what is answered
OnError = Literal["stop", "record"]


@dataclass(frozen=True)
class Asked:
    """A line: its query and documents, or the error in it, what to repeat in the answer, and item ids by docID."""

    where: str
    query: str = ""
    docs: Sequence[Document] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)
    item_of: Mapping[str, str] = field(default_factory=dict)
    error: ValueError | None = None


@dataclass(frozen=True)
class Ready:
    """A batch of lines, and those without an error as the model takes them; None where they cannot be, together."""

    asked: Sequence[Asked]
    prepared: Prepared | None = None


def rank_lines(
    ranker: Ranker,
    lines: Iterable[bytes | None],
    source: str,
    top_k: int | None = None,
    batch_size: int = BATCH_SIZE,
    items: DocIDTable | None = None,
    on_error: OnError = "stop",
    min_probability: float | None = None,
) -> Iterator[dict[str, Any]]:
    """An output object for each line that is not blank, holding two batches in memory at a time, or one on the CPU.

    While an accelerator works on one, a thread prepares the next. None among the lines says that no more is waiting:
    all lines before it are answered then. With `items` the lines' documents are item ids. A line that cannot be ranked
    is an object with `error`; under `stop` it raises `ValueError` naming `source` and the line, after the results of
    the lines before it.
    """
    prepare = partial(_ready, ranker, source=source, items=items, on_error=on_error)
    read = batches(lines, batch_size)
    beside = works_beside(next(ranker.model.parameters()).device)
    for ready in one_ahead(read, prepare) if beside else map(prepare, filter(None, read)):
        yield from _answers(ranker, ready, top_k, on_error, min_probability)


def _ready(
    ranker: Ranker, batch: Sequence[tuple[int, bytes]], source: str, items: DocIDTable | None, on_error: OnError
) -> Ready:
    asked = [_parse(line, f"{source}:{number}", items) for number, line in batch]
    if on_error == "stop":
        bad = next((place for place, each in enumerate(asked) if each.error), len(asked))
        asked = asked[: bad + 1]
    good = [(each.query, each.docs) for each in asked if not each.error]
    try:
        return Ready(asked, ranker.prepare(good) if good else None)
    except ValueError:
        return Ready(asked)


def _answers(
    ranker: Ranker, ready: Ready, top_k: int | None, on_error: OnError, least: float | None
) -> Iterator[dict[str, Any]]:
    for each, found in zip(ready.asked, _ranked(ranker, ready, top_k, least), strict=True):
        if not isinstance(found, ValueError):
            yield {**each.echo, "results": [_object(result, each.item_of) for result in found]}
        elif on_error == "stop":
            raise found
        else:
            yield {"error": str(found), **each.echo}


def _ranked(ranker: Ranker, ready: Ready, top_k: int | None, least: float | None) -> list[list[RankedDoc] | ValueError]:
    """The ranking of each, or its error. Where one of a batch has an error, all are ranked one by one."""
    if ready.prepared is not None:
        with suppress(ValueError):
            ranked = iter(ranker.rank_prepared(ready.prepared, top_k, least))
            return [each.error or next(ranked) for each in ready.asked]
    return [each.error or _ranked_alone(ranker, each, top_k, least) for each in ready.asked]


def _ranked_alone(ranker: Ranker, each: Asked, top_k: int | None, least: float | None) -> list[RankedDoc] | ValueError:
    try:
        return ranker.rank(each.query, each.docs, top_k, least)
    except ValueError as error:
        return ValueError(f"{each.where}: {error}")


def _parse(line: bytes, where: str, items: DocIDTable | None) -> Asked:
    """A line taken apart; what is wrong with it is its `error`."""
    echo: dict[str, Any] = {}
    try:
        raw = json_line(line, where, SHAPE, nan=False)  # what comes with a query is written again
        order = [*(key for key in ("query_id", "query") if key in raw), *(key for key in raw if key not in OURS)]
        echo = {key: raw[key] for key in order}
        if not {"query", "docs"} <= raw.keys():
            found = ", ".join(raw) or "none"
            raise ValueError(f"{where}: expected {SHAPE}, found the keys {found}")
        query, docs = _digits(raw["query"]), raw["docs"]
        echo["query"] = query
        if items is None:
            return Asked(where, query, _with_digits(docs), echo)
        documents, item_of = _looked_up(docs, items, where)
        return Asked(where, query, documents, echo, item_of)
    except ValueError as error:
        return Asked(where, echo=echo, error=error)


def _digits(value: Any) -> Any:
    """A number as the text of its digits; anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (as_id(value, "", "") or str(value)) if is_number else value


def _with_digits(docs: Any) -> Any:
    """Documents whose docIDs may have been numbers."""
    if not isinstance(docs, list):
        return docs
    return [
        {**doc, "docid": _digits(doc["docid"])} if isinstance(doc, dict) and "docid" in doc else _digits(doc)
        for doc in docs
    ]


def _looked_up(docs: Any, items: DocIDTable, where: str) -> tuple[list[Document], dict[str, str]]:
    """`docs`, item ids, as documents; and from docID back to item id."""
    listed = docs if isinstance(docs, list) else [docs]
    are_ids = isinstance(docs, list) and all(isinstance(item, str | int | float) for item in docs)
    asked = [as_id(_digits(item), where, "an item id") for item in docs] if are_ids else [None] * len(listed)
    unknown = [item for item, known in zip(listed, asked, strict=True) if known not in items.docid_of]
    if unknown:
        raise ValueError(
            f"{where}: {reprlib.repr(unknown[0])} is not an item of items=; with it, docs is a list of item ids"
        )
    names = [str(item) for item in asked]
    item_of: dict[str, str] = {}
    for item in names:
        docid = items.docid_of[item]
        other = item_of.setdefault(docid, item)
        if other != item:
            raise ValueError(
                f"{where}: items {other!r} and {item!r} share the docID {docid!r}, which no model tells apart; give "
                "one of them, or docIDs made with collisions=disambiguate"
            )
    return [{"docid": items.docid_of[item], "text": items.text_of[item] or None} for item in names], item_of


def _object(result: RankedDoc, item_of: Mapping[str, str]) -> dict[str, Any]:
    found = {"rank": result.rank, "docid": result.docid, "score": result.score, "probability": result.probability}
    found |= {"item_id": item_of[result.docid]} if item_of else {}
    return found if result.text is None else found | {"text": result.text}


@dataclass
class RankOptions:
    """What `stoical rank` takes beside settings of the checkpoint's recipe."""

    checkpoint: str = option("", "a run (its last checkpoint is taken) or a checkpoint", required=True)
    input: str = option("-", "a file of JSON lines; - is stdin")
    output: str = option("-", "the file to write; - is stdout")
    items: str | None = option(
        None, "a table of docIDs that stoical prepare made (items.parquet); docs are then item ids"
    )
    top_k: int | None = option(None, "how many documents of a line to write (null: all)")
    min_probability: float | None = option(
        None, "a line whose first document is less probable than this among its documents gets no results"
    )
    temperature: float = option(
        1.0, "of the probabilities, as stoical evaluate fits it with eval.calibration=true (calibration.json)"
    )
    batch_size: int = option(BATCH_SIZE, "lines scored in one forward, fewer where no more input is waiting")
    on_error: OnError = option(
        "stop", "what a line does that cannot be ranked. stop: ends the command; record: is written with its error"
    )

    def check(self) -> None:
        """Raise `ValueError` for values out of range, and for files that are not there or the same."""
        for key in ("top_k", "batch_size"):
            value = getattr(self, key)
            if value is not None:
                at_least(key, value, 1)
        if self.min_probability is not None:
            within("min_probability", self.min_probability)
        above_zero("temperature", self.temperature)
        if self.input != "-" and (Path(self.input).is_dir() or not Path(self.input).exists()):
            raise ValueError(f"input={self.input}: no such file")
        if "-" not in (self.input, self.output) and Path(self.input).resolve() == Path(self.output).resolve():
            raise ValueError(f"output={self.output} is the input; give another file")


def run(given: Given) -> None:
    """Rank every line."""
    options = given.options
    options.check()
    items = DocIDTable.load(options.items) if options.items is not None else None
    find_checkpoint(options.checkpoint)
    from stoical.ranker import Ranker

    quiet_libraries()
    ranker = Ranker.from_pretrained(options.checkpoint, given.settings, temperature=options.temperature)
    failed = 0
    with ExitStack() as files:
        file = sys.stdin.buffer if options.input == "-" else files.enter_context(opened(Path(options.input)))
        output = sys.stdout.buffer if options.output == "-" else files.enter_context(_opened(options.output))
        name = "stdin" if options.input == "-" else options.input
        results = rank_lines(
            ranker,
            arriving(file),
            name,
            options.top_k,
            options.batch_size,
            items,
            options.on_error,
            options.min_probability,
        )
        for result in progress(results, "ranking, queries"):
            failed += "error" in result
            _write(output, json.dumps(result, ensure_ascii=False).encode() + b"\n", options.output)
    if failed:
        print(f"{failed:,} lines could not be ranked: their results have an error", file=sys.stderr)


def _write(output: BinaryIO, line: bytes, name: str) -> None:
    try:
        output.write(line)
        output.flush()
    except BrokenPipeError:
        raise  # whoever reads has had enough
    except OSError as error:
        raise ValueError(f"output={name}: {error.strerror}; what was written before is there") from error


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise ValueError(f"output={path}: {error.strerror}") from error


main = Command(str(__doc__), run, RankOptions, settings=True)
