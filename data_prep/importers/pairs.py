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

from stoical.common.options import option

from ..dropped import Dropped
from ..grades import Grades, Judgement, group, parse_grade
from ..item_texts import ItemText, read_texts
from ..list_options import ListOptions
from ..lists import build_lists
from ..tables import Table, read_table

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
    id_column: str = option("", "the column of the document's id; if not given, the document itself is its id")
    documents: str = option(
        "",
        "a file with the documents' texts by id (.jsonl, .csv or .parquet with id, and text or title, or .tsv of id, "
        "text); the document column then holds ids",
    )


def build(options: PairOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    options.check(TOOL)
    _check(options)
    inputs = {key: Path(getattr(options, key)) for key in ("input", "test_input", "documents") if getattr(options, key)}
    pairs, dropped = Pairs({}, {}), Dropped()
    names = {"input": "train" if options.test_input else "test", "test_input": "test"}
    grades = {
        split: group(pairs.read(inputs[key], options, dropped), dropped)
        for key, split in names.items()
        if key in inputs
    }
    documents = pairs.documents
    if options.documents:
        documents = read_texts(inputs["documents"], "document", documents.keys(), dropped)
    build_lists(options, TOOL, inputs, grades, Grades(), pairs.queries, documents, dropped)


def _check(options: PairOptions) -> None:
    if not options.input:
        raise ValueError("input= is missing: a file of pairs")
    if options.documents and options.id_column:
        raise ValueError("id_column= has no effect with documents=: document_column= then names the ids")
    if options.docids == "title" and not options.documents:
        raise ValueError("docids=title needs documents=, which has the titles; docids=id is the document itself")


@dataclass
class Pairs:
    """The queries and documents of pairs, by id, as they come: a query's id is q1, q2, ..."""

    queries: dict[str, ItemText]
    documents: dict[str, ItemText]

    def read(self, path: Path, options: PairOptions, dropped: Dropped) -> Iterator[Judgement]:
        """The judgements of a file. A row without query or document is noted. ValueError for a bad file or score."""
        table = read_table(path, *_columns(path, options))
        if not len(table):
            raise ValueError(f"{path} holds no rows")
        names = _found(table, options)
        id_name = options.id_column or names["document"]
        known = {item.text: number for number, item in self.queries.items()}
        for where, (query, document, score, number) in table.rows(*names.values(), id_name):
            texts = [" ".join(str(cell if cell is not None else "").split()) for cell in (query, document, number)]
            if not all(texts):
                dropped.add("pair with an empty cell", where, " / ".join(texts))
                continue
            query_id = known.setdefault(texts[0], f"q{len(known) + 1}")
            self.queries.setdefault(query_id, ItemText(None, texts[0], where))
            before = self.documents.setdefault(texts[2], ItemText(None, texts[1], where))
            if before.text != texts[1]:
                dropped.add("another text of the same document id", where, " / ".join(texts))
                continue
            yield Judgement(query_id, texts[2], parse_grade(score, where, names["score"]), where)


def _columns(path: Path, options: PairOptions) -> tuple[list[str], list[str]]:
    """The columns that a table must have, as the user named them, and those that it may have."""
    given = {kind: getattr(options, f"{kind}_column") for kind in USUAL}
    required = [name for name in (*given.values(), options.id_column) if name]
    return list(dict.fromkeys(required)), [name for kind, names in USUAL.items() if not given[kind] for name in names]


def _found(table: Table, options: PairOptions) -> dict[str, str]:
    """The columns of query, document and score. ValueError where the table has none of the usual ones."""
    found = {}
    for kind, usual in USUAL.items():
        name = getattr(options, f"{kind}_column") or next((name for name in usual if name in table.columns), None)
        if name is None:
            raise ValueError(
                f"{table.name} has no column {' or '.join(usual)} (it has: {', '.join(table.names)}); "
                f"give {kind}_column=NAME"
            )
        found[kind] = name
    return found
