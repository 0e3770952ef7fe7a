"""Rank documents with a trained model: exact scores of all documents of a query, one forward a batch of queries.

  stoical rank checkpoint=DIR [input=FILE] [output=FILE] [items=FILE] [top_k=K] [batch_size=B] [key=value]

Reads JSON lines {"query": ..., "docs": [...]}, a document being a docID or {"docid": ..., "text": ...}, and writes for
each line, in order, {"query": ..., "results": [{"rank": 1, "docid": ..., "score": ...}, ...]}, with the documents'
texts and the line's "query_id" where it has them. input=- and output=-, the defaults, are stdin and stdout. Scores are
log-probabilities in nats. checkpoint is a run (its last checkpoint is taken) or a checkpoint, and other settings are
those of its recipe, such as prompt.max_length=2048. model.dtype=bfloat16 takes half the memory of float32 weights (15
instead of 29 GB for 7 billion); it moved the scores of the quickstart's model by up to 0.01 nats.

With items=, a table of docIDs that data_prep made (items.parquet), documents are item ids: their docIDs and texts are
looked up there, and results have their "item_id".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tqdm import tqdm

from stoical.commands.shell import Command, Given, quiet_libraries
from stoical.common.options import option
from stoical.data.files import json_value, numbered
from stoical.docids.table import DocIDTable
from stoical.runs.find import find_checkpoint

if TYPE_CHECKING:
    from stoical.ranker import RankedDoc, Ranker

BATCH_SIZE = 8
LINE_KEYS = {"query_id", "query", "docs"}


def rank_lines(
    ranker: Ranker,
    lines: Iterable[bytes],
    source: str,
    top_k: int | None = None,
    batch_size: int = BATCH_SIZE,
    items: DocIDTable | None = None,
) -> Iterator[dict[str, Any]]:
    """An output object for each line that is not blank, holding one batch in memory at a time.

    With `items` the lines' documents are item ids. Raises `ValueError` naming `source` and the line, after the results
    of the batches before it.
    """
    parsed = (_parse(line, f"{source}:{number}", items) for number, line in numbered(lines))
    while batch := list(islice(parsed, batch_size)):
        for (_, raw), results in zip(batch, _rank_parsed(ranker, batch, top_k), strict=True):
            echoed = {key: raw[key] for key in ("query_id", "query") if key in raw}
            yield echoed | {"results": [_object(result, raw.get("items", {})) for result in results]}


def _rank_parsed(ranker: Ranker, batch: list[tuple[str, dict[str, Any]]], top_k: int | None) -> list[list[RankedDoc]]:
    try:
        return ranker.rank_batch([(raw["query"], raw["docs"]) for _, raw in batch], top_k)
    except ValueError:
        for where, raw in batch:  # one by one, to find the line
            try:
                ranker.rank(raw["query"], raw["docs"], top_k)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        raise


def _parse(line: bytes, where: str, items: DocIDTable | None) -> tuple[str, dict[str, Any]]:
    raw = json_value(line, where)
    if not isinstance(raw, dict) or not {"query", "docs"} <= raw.keys() <= LINE_KEYS:
        found = f"the keys {', '.join(raw) or 'none'}" if isinstance(raw, dict) else "something else"
        raise ValueError(f'{where}: expected {{"query": ..., "docs": [...]}} and maybe "query_id", found {found}')
    return where, raw if items is None else raw | _looked_up(raw["docs"], items, where)


def _looked_up(docs: Any, items: DocIDTable, where: str) -> dict[str, Any]:
    """`docs`, item ids, as documents, and `items`: from docID back to item id."""
    unknown = [item for item in docs if item not in items.docid_of] if _are_strings(docs) else [docs]
    if unknown:
        raise ValueError(f"{where}: {unknown[0]!r} is not an item of items=; with it, docs is a list of item ids")
    found = [{"docid": items.docid_of[item], "text": items.text_of[item] or None} for item in docs]
    return {"docs": found, "items": {items.docid_of[item]: item for item in docs}}


def _are_strings(docs: Any) -> bool:
    return isinstance(docs, list) and all(isinstance(item, str) for item in docs)


def _object(result: RankedDoc, item_of: Mapping[str, str]) -> dict[str, Any]:
    found = {"rank": result.rank, "docid": result.docid, "score": result.score}
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
    batch_size: int = option(BATCH_SIZE, "lines scored in one forward")

    def check(self) -> None:
        """Raise `ValueError` for values out of range, and for files that are not there or the same."""
        for key in ("top_k", "batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be a whole number of at least 1")
        if self.input != "-" and not Path(self.input).is_file():
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
    ranker = Ranker.from_pretrained(options.checkpoint, given.settings)
    with ExitStack() as files:
        lines = sys.stdin.buffer if options.input == "-" else files.enter_context(Path(options.input).open("rb"))
        output = sys.stdout.buffer if options.output == "-" else files.enter_context(_opened(options.output))
        name = "stdin" if options.input == "-" else options.input
        results = rank_lines(ranker, lines, name, options.top_k, options.batch_size, items)
        for result in tqdm(results, desc="ranking", unit="query", disable=None):
            output.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
            output.flush()


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise ValueError(f"output={path}: {error.strerror}") from error


main = Command(str(__doc__), run, RankOptions, settings=True)
