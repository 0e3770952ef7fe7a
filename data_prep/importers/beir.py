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

from stoical.common.options import option

from ..dropped import Dropped
from ..grades import Grades, Judgement, group, parse_grade
from ..item_texts import read_texts
from ..list_options import ListOptions
from ..lists import build_lists
from ..tables import read_table

TOOL = "stoical prepare beir"
COLUMNS = ("query-id", "corpus-id", "score")


@dataclass
class BeirOptions(ListOptions):
    """What the user can set; `--help` prints it."""

    source: str = option("", "the directory of a BEIR dataset")
    train: str = option("train", "which of qrels/*.tsv is for training; if it is that of test=, the seed splits it")
    test: str = option("test", "which of qrels/*.tsv is for testing")


def build(options: BeirOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    options.check(TOOL)
    source, dropped = Path(options.source), Dropped()
    inputs = {name: _file(source, f"{name}.jsonl") for name in ("corpus", "queries")}
    splits = {"test": options.test} if options.train == options.test else {"train": options.train, "test": options.test}
    qrels = {split: _file(source, f"qrels/{name}.tsv") for split, name in splits.items()}
    grades = {split: group(read_qrels(path), dropped) for split, path in qrels.items()}
    queries = read_texts(inputs["queries"], "query", {*grades["test"], *grades.get("train", ())}, dropped)
    wanted = {document for its in grades.values() for judged in its.values() for document in judged}
    documents = read_texts(inputs["corpus"], "document", wanted, dropped)
    inputs |= {f"qrels_{split}": path for split, path in qrels.items()}
    build_lists(options, TOOL, inputs, grades, Grades(), queries, documents, dropped)


def _file(source: Path, name: str) -> Path:
    """A file of the dataset. ValueError, saying what there is, where it is missing."""
    if not source.name or not source.is_dir():
        raise ValueError(f"source={source}: give a directory with corpus.jsonl, queries.jsonl and qrels/")
    path = source / name
    if path.is_file():
        return path
    beside = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
    hint = f"; train= and test= choose among {', '.join(beside) or 'none'}" if path.parent.name == "qrels" else ""
    raise ValueError(f"{source} has no {name}{hint}")


def read_qrels(path: Path) -> Iterator[Judgement]:
    """The judgements of a .tsv file. ValueError for a file without rows, and for a bad row."""
    table = read_table(path, COLUMNS)
    if not len(table):
        raise ValueError(f"{path} holds no rows")
    for where, (query, document, score) in table.rows(*COLUMNS):
        if query is None or document is None:
            raise ValueError(f"{where}: query-id and corpus-id must not be empty")
        yield Judgement(query, document, parse_grade(score, where, "score"), where)
