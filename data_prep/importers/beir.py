"""Make a ranking dataset from a directory in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/{train,test}.tsv.

    stoical prepare beir source=scifact out=data/scifact
    stoical prepare beir source=nfcorpus out=data/nfcorpus test=dev irrelevant=last
    stoical prepare beir source=arguana out=data/arguana train=test

Documents are ranked by grade, equal grades tie, and grades of 0 are not relevant: see docs/data.md. Rows that are left
out are counted in manifest.json and listed in dropped.parquet; items.parquet says which document has which docID.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stoical.common.ids import as_id
from stoical.common.options import option
from stoical.common.progress import progress
from stoical.common.text_files import or_gzipped

from ..columns import Column, read_columns
from ..dropped import Dropped
from ..grades import Grades, Judgement, group, parse_grade
from ..item_texts import read_texts
from ..list_options import ListOptions
from ..lists import build_lists

TOOL = "stoical prepare beir"
USUAL = {"query": "query-id", "document": "corpus-id", "score": "score"}


@dataclass
class BeirOptions(ListOptions):
    """What the user can set; `--help` prints it."""

    source: str = option("", "the directory of a BEIR dataset")
    train: str = option("train", "which of qrels/*.tsv is for training; if it is that of test=, the seed splits it")
    test: str = option("test", "which of qrels/*.tsv is for testing")
    query_column: str = option("", "the column of query ids in qrels/*.tsv, where it is not query-id")
    document_column: str = option("", "the column of document ids in qrels/*.tsv, where it is not corpus-id")
    score_column: str = option("", "the column of grades in qrels/*.tsv, where it is not score")


def build(options: BeirOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    options.check(TOOL)
    source, dropped = Path(options.source), Dropped()
    inputs = {name: _file(source, f"{name}.jsonl") for name in ("corpus", "queries")}
    splits = {"test": options.test} if options.train == options.test else {"train": options.train, "test": options.test}
    qrels = {split: _file(source, f"qrels/{name}.tsv") for split, name in splits.items()}
    grades = {split: group(read_qrels(path, options), dropped, options.twice) for split, path in qrels.items()}
    columns, judged = options.text_columns(), {*grades["test"], *grades.get("train", ())}
    queries = read_texts(inputs["queries"], "query", judged, dropped, columns)
    wanted = {document for its in grades.values() for judged in its.values() for document in judged}
    documents = read_texts(inputs["corpus"], "document", wanted, dropped, columns)
    inputs |= {f"qrels_{split}": path for split, path in qrels.items()}
    build_lists(options, TOOL, inputs, grades, Grades(), queries, documents, dropped)


def _file(source: Path, name: str) -> Path:
    """A file of the dataset. ValueError, saying what there is, where it is missing."""
    if not source.name or not source.is_dir():
        raise ValueError(f"source={source}: give a directory with corpus.jsonl, queries.jsonl and qrels/")
    path = or_gzipped(source / name)
    if path.is_file():
        return path
    beside = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
    hint = f"; train= and test= choose among {', '.join(beside) or 'none'}" if path.parent.name == "qrels" else ""
    raise ValueError(f"{source} has no {name}{hint}")


def read_qrels(path: Path, options: BeirOptions) -> Iterator[Judgement]:
    """The judgements of a .tsv file. ValueError for a file without rows, and for a bad row."""
    options_of = {key: f"{key}_column" for key in USUAL}
    columns = {key: Column.of(name, getattr(options, name), [USUAL[key]]) for key, name in options_of.items()}
    table, labels = read_columns(path, columns), options.labels()
    for where, (query, document, score) in progress(table.rows(*columns), f"reading {path}"):
        query_id, document_id = as_id(query, where, "query-id"), as_id(document, where, "corpus-id")
        if query_id is None or document_id is None:
            raise ValueError(f"{where}: query-id and corpus-id must not be empty")
        yield Judgement(query_id, document_id, parse_grade(score, where, "score", labels), where)
