"""Make a ranking dataset from scored pairs, as sentence-transformers trains on: a query, a document, a score.

    stoical prepare pairs input=pairs.csv out=data/mine
    stoical prepare pairs input=ratings.csv documents=products.csv docids=docids/items.parquet out=data/mine

A row of input= (.csv, .tsv, .jsonl, .parquet, or a directory by datasets' save_to_disk) has a query, a document and a
score; their columns are found by the names that are usual. Documents are ranked by score, equal scores tie, and a score
of 0 or less is not relevant (`relevant_above`): see docs/data.md. Rows that are left out are counted in manifest.json
and listed in dropped.parquet; items.parquet says which document has which docID.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoical.common.ids import as_id
from stoical.common.options import option
from stoical.common.progress import progress

from ..checks import refuse
from ..columns import Column, read_columns
from ..dropped import Dropped
from ..grades import Grades, Judgement, group, parse_grade
from ..item_texts import ItemText, read_texts
from ..list_options import ListOptions
from ..lists import build_lists

TOOL = "stoical prepare pairs"
USUAL = {
    "query": ("query", "anchor", "question", "sentence1", "sentence_A"),
    "document": ("document", "positive", "passage", "answer", "sentence2", "sentence_B"),
    "score": ("score", "label", "similarity", "relevance", "grade"),
}


@dataclass
class PairOptions(ListOptions):
    """What the user can set; `--help` prints it."""

    input: str = option("", "the file or directory of the pairs")
    test_input: str = option("", "the pairs of the test queries; without it the seed splits the queries")
    query_column: str = option("", f"the column of the query; if not given, the first of {', '.join(USUAL['query'])}")
    document_column: str = option(
        "", f"the column of the document; if not given, the first of {', '.join(USUAL['document'])}"
    )
    score_column: str = option("", f"the column of the score; if not given, the first of {', '.join(USUAL['score'])}")
    id_column: str = option(
        "",
        "the column of the document's id; if not given, the document itself is its id. With documents= the column of "
        "ids there, where it is not _id or id",
    )
    documents: str = option(
        "",
        "a file with the documents' texts by id (.jsonl, .csv, .tsv or .parquet with id, and text or title, or .tsv of "
        "id, text without header); the document column then holds ids",
    )


def build(options: PairOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    options.check(TOOL)
    _check(options)
    inputs = {key: Path(getattr(options, key)) for key in ("input", "test_input", "documents") if getattr(options, key)}
    pairs, dropped = Pairs({}, {}), Dropped()
    names = {"input": "train" if options.test_input else "test", "test_input": "test"}
    grades = {
        split: group(pairs.read(inputs[key], options, dropped), dropped, options.twice)
        for key, split in names.items()
        if key in inputs
    }
    documents = pairs.documents
    if options.documents:
        documents = read_texts(inputs["documents"], "document", documents.keys(), dropped, options.text_columns())
    build_lists(options, TOOL, inputs, grades, Grades(), pairs.queries, documents, dropped)


def _check(options: PairOptions) -> None:
    if not options.input:
        raise ValueError("input= is missing: a file of pairs")
    if not options.documents:
        refuse(options, ["title_column", "text_column"], "input= alone; documents= has titles and texts")
    if options.docids == "title" and not options.documents:
        raise ValueError("docids=title needs documents=, which has the titles; docids=id is the document itself")


@dataclass
class Pairs:
    """The queries and documents of pairs, by id, as they come: a query's id is q1, q2, ..."""

    queries: dict[str, ItemText]
    documents: dict[str, ItemText]

    def read(self, path: Path, options: PairOptions, dropped: Dropped) -> Iterator[Judgement]:
        """The judgements of a file. A row without query or document is noted. ValueError for a bad file or score."""
        columns = _columns(options)
        table, labels = read_columns(path, columns), options.labels()
        known = {item.text: number for number, item in self.queries.items()}
        id_key = "id" if "id" in columns else "document"
        for where, (query, document, score, number) in progress(
            table.rows("query", "document", "score", id_key), f"reading {path}"
        ):
            texts = [_text(query, where, "the query"), _text(document, where, "the document")]
            item = as_id(number, where, "the document's id")
            if not (all(texts) and item):
                dropped.add("pair with an empty cell", where, " / ".join([*texts, item or ""]))
                continue
            query_id = known.setdefault(texts[0], f"q{len(known) + 1}")
            self.queries.setdefault(query_id, ItemText(None, texts[0], where))
            before = self.documents.setdefault(item, ItemText(None, texts[1], where))
            if before.text != texts[1]:
                dropped.add("another text of the same document id", where, " / ".join([*texts, item]))
                continue
            yield Judgement(query_id, item, parse_grade(score, where, "score", labels), where)


def _columns(options: PairOptions) -> dict[str, Column]:
    """The columns of a file of pairs: with documents= the document column holds ids."""
    found = {key: Column.of(f"{key}_column", getattr(options, f"{key}_column"), usual) for key, usual in USUAL.items()}
    own_ids = options.id_column and not options.documents
    return found | ({"id": Column.of("id_column", options.id_column, ())} if own_ids else {})


def _text(cell: Any, where: str, what: str) -> str:
    """A cell as text, with runs of blanks made one. ValueError for a list, a yes or no, and the like."""
    return as_id(cell, where, what) or ""
