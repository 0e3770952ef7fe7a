"""Make a ranking dataset from scored pairs, as sentence-transformers trains on: a query, a document, a score.

    stoical prepare pairs input=pairs.csv out=data/mine
    stoical prepare pairs input=ratings.csv documents=products.csv docids=docids/items.parquet out=data/mine

A row of input= (.csv, .tsv, .jsonl, .parquet, or a directory by datasets' save_to_disk) has a query, a document and a
score; their columns are found by the names that are usual. Documents are ranked by score, equal scores tie, and a score
of 0 or less is not relevant (`relevant_above`): see docs/data.md. Rows that are left out are counted in manifest.json
and listed in dropped.parquet; items.parquet says which document has which docID.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from ..marks import parse_weight

TOOL = "stoical prepare pairs"
MARKS = ("weight", "query_weight", "teacher")  # columns that are read where an option names them
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
    weight_column: str = option("", "the column of the document's weight in training (docs/data.md), if there is one")
    query_weight_column: str = option("", "the column of the query's weight, the same in all rows of a query")
    teacher_column: str = option("", "the column of another model's score, for losses that learn from a teacher")
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
    pairs, dropped = Pairs({}, {}, {}), Dropped()
    names = {"input": "train" if options.test_input else "test", "test_input": "test"}
    grades = {
        split: group(pairs.read(inputs[key], options, dropped), dropped, options.twice)
        for key, split in names.items()
        if key in inputs
    }
    documents = pairs.documents
    if options.documents:
        documents = read_texts(inputs["documents"], "document", documents.keys(), dropped, options.text_columns())
    build_lists(options, TOOL, inputs, grades, Grades(), pairs.queries, documents, dropped, pairs.weights)


def _check(options: PairOptions) -> None:
    if not options.input:
        raise ValueError("input= is missing: a file of pairs")
    if not options.documents:
        refuse(options, ["title_column", "text_column"], "input= alone; documents= has titles and texts")
    if options.docids == "title" and not options.documents:
        raise ValueError("docids=title needs documents=, which has the titles; docids=id is the document itself")


@dataclass
class Pairs:
    """The queries and documents of pairs, by id, as they come: a query's id is q1, q2, ...; and weights of queries."""

    queries: dict[str, ItemText]
    documents: dict[str, ItemText]
    weights: dict[str, float]

    def read(self, path: Path, options: PairOptions, dropped: Dropped) -> Iterator[Judgement]:
        """The judgements of a file. A row without query or document is noted. ValueError for a bad file or score."""
        columns = _columns(options)
        table, labels = read_columns(path, columns), options.labels()
        known = {_one_line(item.text): number for number, item in self.queries.items()}
        id_key = "id" if "id" in columns else "document"
        cells = table.rows("query", "document", "score", id_key, *MARKS)
        for where, (query, document, score, number, *marks) in progress(cells, f"reading {path}"):
            texts = [_text(query, where, "the query"), _text(document, where, "the document")]
            item = as_id(number, where, "the document's id")
            if not (all(texts) and item):
                dropped.add("pair with an empty cell", where, " / ".join([*texts, item or ""]))
                continue
            query_id = known.setdefault(_one_line(texts[0]), f"q{len(known) + 1}")
            self.queries.setdefault(query_id, ItemText(None, texts[0], where))
            before = self.documents.setdefault(item, ItemText(None, texts[1], where))
            if _one_line(before.text) != _one_line(texts[1]):
                dropped.add("another text of the same document id", where, " / ".join([*texts, item]))
                continue
            weight, teacher = self._marks(query_id, marks, where)
            yield Judgement(query_id, item, parse_grade(score, where, "score", labels), where, weight, teacher)

    def _marks(self, query_id: str, cells: Sequence[Any], where: str) -> tuple[float | None, float | None]:
        """The document's weight and the teacher's score; keeps the query's weight. ValueError for two of a query."""
        weight, of_query, teacher = cells
        own = parse_weight(of_query, where, "the query's weight")
        if own is not None and self.weights.setdefault(query_id, own) != own:
            text = self.queries[query_id].text
            raise ValueError(f"{where}: query {text!r} has weight {own:g}, and {self.weights[query_id]:g} before")
        scored = None if teacher is None or teacher == "" else parse_grade(teacher, where, "the teacher's score")
        return parse_weight(weight, where, "the weight"), scored


def _columns(options: PairOptions) -> dict[str, Column]:
    """The columns of a file of pairs: with documents= the document column holds ids."""
    found = {key: Column.of(f"{key}_column", getattr(options, f"{key}_column"), usual) for key, usual in USUAL.items()}
    optional = {key: f"{key}_column" for key in MARKS} | ({} if options.documents else {"id": "id_column"})
    given = {key: name for key, name in optional.items() if getattr(options, name)}
    return found | {key: Column.of(name, getattr(options, name), ()) for key, name in given.items()}


def _text(cell: Any, where: str, what: str) -> str:
    """A cell as text, without blanks at its ends. ValueError for a list, a yes or no, and the like."""
    written = as_id(cell, where, what) or ""
    return cell.strip() if isinstance(cell, str) else written


def _one_line(text: str | None) -> str:
    """A text with runs of blanks made one: those that differ in blanks alone are one query, or one document."""
    return " ".join((text or "").split())
