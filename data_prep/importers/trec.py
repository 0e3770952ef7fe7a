"""Make a ranking dataset from TREC files: qrels, a run, or both, with the texts of queries and documents.

    stoical prepare trec qrels=FILE queries=FILE documents=FILE out=data/mine
    stoical prepare trec run=FILE depth=20 queries=FILE documents=FILE out=data/distilled
    stoical prepare trec qrels=FILE run=FILE irrelevant=last queries=FILE documents=FILE out=data/mine

qrels (query, iteration, document, grade) rank documents by grade; equal grades tie, and grades of 0 are not relevant. A
run (query, Q0, document, rank, score, tag) alone is a ranking to distil: its `depth` best by score, which is what
trec_eval reads, too. With both, the qrels say what is relevant, and what else the run retrieved comes first among the
irrelevant. See docs/data.md. Rows that are left out are counted in manifest.json and listed in dropped.parquet;
items.parquet says which document has which docID.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stoical.common.options import option
from stoical.common.progress import progress
from stoical.common.text_files import text_lines

from ..checks import check_least, refuse
from ..dropped import Dropped
from ..grades import Grades, Judgement, group, parse_grade
from ..item_texts import ItemText, read_texts
from ..list_options import ListOptions
from ..lists import build_lists

TOOL = "stoical prepare trec"
QRELS = ("query", "iteration", "document", "grade")
RUN = ("query", "Q0", "document", "rank", "score", "tag")


@dataclass
class TrecOptions(ListOptions):
    """What the user can set; `--help` prints it."""

    qrels: str = option("", "a qrels file")
    test_qrels: str = option("", "qrels of the test queries; without them the seed splits the queries")
    run: str = option("", "a run file")
    depth: int = option(100, "how many of a query's documents are taken from the run, the best by score")
    queries: str = option(
        "", "texts of the queries: .jsonl, .csv, .tsv or .parquet with id and text, or .tsv of id, text without header"
    )
    documents: str = option("", "texts of the documents, in the same forms, and with title; without it there are none")


def build(options: TrecOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    options.check(TOOL)
    _check(options)
    dropped = Dropped()
    keys = ("qrels", "test_qrels", "run", "queries", "documents")
    inputs = {key: Path(getattr(options, key)) for key in keys if getattr(options, key)}
    for key, path in inputs.items():
        if not path.exists():
            raise ValueError(f"{key}={path}: no such file")
    run = Grades()
    if options.run:
        run = best(group(read_trec(inputs["run"], RUN), dropped, options.twice), options.depth)
    names = {"qrels": "train" if options.test_qrels else "test", "test_qrels": "test"}
    labels, columns = options.labels(), options.text_columns()
    grades = {
        names[key]: group(read_trec(inputs[key], QRELS, labels), dropped, options.twice)
        for key in names
        if key in inputs
    }
    for query in sorted(run.keys() - set().union(*grades.values())) if grades else ():
        dropped.add("query of the run without judgements", next(iter(run.pop(query).values())).where, query)
    wanted = [*grades.values(), run]
    queries = read_texts(inputs["queries"], "query", {query for its in wanted for query in its}, dropped, columns)
    pairs = {each.document: each for its in wanted for judged in its.values() for each in judged.values()}
    if options.documents:
        documents = read_texts(inputs["documents"], "document", pairs.keys(), dropped, columns)
    else:
        documents = {document: ItemText(None, None, each.where) for document, each in pairs.items()}
    build_lists(options, TOOL, inputs, grades, run, queries, documents, dropped)


def _check(options: TrecOptions) -> None:
    if not (options.qrels or options.run):
        raise ValueError("give qrels=FILE, run=FILE, or both")
    if options.test_qrels and not options.qrels:
        raise ValueError("test_qrels= goes with qrels=, which is then for training")
    if not options.queries:
        raise ValueError("queries= is missing: a file with the queries' texts")
    check_least(options, depth=1)
    if not options.run:
        refuse(options, ["depth"], "qrels= alone")
    if not options.qrels:
        refuse(options, ["irrelevant", "max_irrelevant", "relevant_above", "grades"], "run= alone")
    if not options.documents and options.docids == "title":
        raise ValueError("docids=title needs documents=, which has the titles")


def read_trec(path: Path, fields: tuple[str, ...], labels: Mapping[str, float] | None = None) -> Iterator[Judgement]:
    """The rows of a qrels or run file, whose fields whitespace parts. ValueError for none, and for a bad one."""
    number = "score" if fields == RUN else "grade"
    empty = True
    for where, line in progress(text_lines(path), f"reading {path}"):
        cells = line.split()
        if len(cells) != len(fields):
            raise ValueError(f"{where}: expected {len(fields)} fields ({', '.join(fields)}), got {len(cells)}")
        empty = False
        yield Judgement(cells[0], cells[2], parse_grade(cells[fields.index(number)], where, number, labels), where)
    if empty:
        raise ValueError(f"{path} holds no rows")


def best(run: Grades, depth: int) -> Grades:
    """The `depth` best documents of each query; of equal scores, the first in the file."""
    return {
        query: dict(sorted(retrieved.items(), key=lambda each: -each[1].grade)[:depth])
        for query, retrieved in run.items()
    }
