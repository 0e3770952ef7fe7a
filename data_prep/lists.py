"""From ranked document ids to a dataset directory: docIDs, texts, splits, and the record of what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.files import file_sha256
from stoical.common.lazy import pa
from stoical.common.progress import progress
from stoical.data.dataset import row_schema
from stoical.data.rows import parse_row
from stoical.docids.table import DocIDTable

from .dataset_dir import Row, write_dataset
from .dropped import Dropped, listed_on_error, print_dropped
from .grades import Grades, Ranked, competition_ranks, known, rank_all, rank_run
from .item_texts import ItemText, TextChoice
from .list_options import DOCID_CHOICES, ListOptions
from .marks import Marks, collect_marks


@dataclass(frozen=True)
class Collection:
    """Queries and documents by id. A document's text may be None, and so may its docID, which leaves it out."""

    queries: Mapping[str, ItemText]
    documents: Mapping[str, ItemText]
    docid_of: Mapping[str, str | None]
    text: TextChoice
    marks: Marks = Marks()


def choose_docids(choice: str, documents: Mapping[str, ItemText]) -> dict[str, str | None]:
    """The docID of every document: its id, its title, or what the table in a file says; None where there is none."""
    if choice == "id":
        return {document: document for document in documents}
    if choice == "title":
        return {document: item.title for document, item in documents.items()}
    table = DocIDTable.load(choice).docid_of
    if documents and not table.keys() & documents.keys():
        raise ValueError(
            f"docids={choice}: none of the {len(documents):,} documents is among its items: ids there are such as "
            f"{next(iter(table), 'none')!r}, and here such as {next(iter(documents))!r}"
        )
    return {document: table.get(document) for document in documents}


def choose_text(choice: TextChoice, documents: Mapping[str, ItemText]) -> TextChoice:
    """What of the documents is written: as asked, but `none` where they have neither title nor text.

    ValueError where none has the one that is asked for.
    """
    if any(item.chosen(choice) for item in documents.values()):
        return choice
    if documents and choice in ("title", "text"):
        raise ValueError(f"text={choice}: no document has a {choice}; give text=both or text=none, or name its column")
    return "none"


def make_rows(ranked: Mapping[str, Ranked], collection: Collection, dropped: Dropped) -> list[Row]:
    """A row for each query, see `stoical.data.rows`.

    Noted and left out are documents without a docID or, where texts are asked for, without a text; of the documents of
    a list that share a docID, all but the best-ranked; and lists whose documents all share one, or that have none left.
    """
    rows = []
    for query, its in progress(ranked.items(), "making rows"):
        seen: set[str] = set()
        kept = _usable(query, [document for document, _ in its.documents], collection, seen, dropped)
        negatives = _usable(query, its.negatives, collection, seen, dropped)
        docids = [collection.docid_of[document] for document, _ in its.documents]
        where = collection.queries[query].where
        if not kept:
            dropped.add("query without a document that can be used", where, query)
        elif len(kept) == 1 and docids.count(collection.docid_of[kept[0]]) > 1:
            dropped.add("query whose documents all share a docID", where, query)
        else:
            of_level = dict(its.documents)
            ranks = competition_ranks([of_level[document] for document in kept])
            docs = [
                _document(document, collection, its) | {"rank": rank}
                for document, rank in zip(kept, ranks, strict=True)
            ]
            off_list = [_document(document, collection, its) for document in negatives]
            text = collection.queries[query].chosen("both")
            row = {"query_id": query, "query": text, "docs": docs, "negatives": off_list}
            _mark(row, query, kept, negatives, collection.marks)
            parse_row(row, f"query {query!r} ({where})")  # what is written can be read
            rows.append(row)
    return rows


def _mark(row: Row, query: str, kept: Sequence[str], negatives: Sequence[str], marks: Marks) -> None:
    """Give a row, its documents and its negatives their weights and a teacher's scores."""
    row |= marks.of_row(query)
    for doc, document in zip(row["docs"], kept, strict=True):
        doc |= marks.of_document(query, document)
    for doc, document in zip(row["negatives"], negatives, strict=True):
        doc |= marks.of_negative(query, document)


def _usable(
    query: str, documents: Sequence[str], collection: Collection, seen: set[str], dropped: Dropped
) -> list[str]:
    """The documents that can be used, in order; `seen` collects their docIDs."""
    kept = []
    for document in documents:
        item, docid = collection.documents[document], collection.docid_of[document]
        if docid is None:
            dropped.add("document without docID", item.where, f"{document} of query {query}")
        elif collection.text != "none" and item.chosen(collection.text) is None:
            dropped.add(f"document without text={collection.text}", item.where, f"{document} of query {query}")
        elif docid in seen:
            dropped.add("docID again in a list", item.where, f"{docid} of {document} of query {query}")
        else:
            seen.add(docid)
            kept.append(document)
    return kept


def _document(document: str, collection: Collection, its: Ranked) -> dict[str, Any]:
    text = collection.documents[document].chosen(collection.text)
    return {"docid": collection.docid_of[document], "text": text, "grade": its.grades.get(document)}


def build_lists(
    options: ListOptions,
    tool: str,
    inputs: Mapping[str, Path],
    grades: Mapping[str, Grades],
    run: Grades,
    queries: Mapping[str, ItemText],
    documents: Mapping[str, ItemText],
    dropped: Dropped,
    weights: Mapping[str, float] | None = None,
) -> None:
    """Rank the documents of every query, split the queries and write the dataset.

    `grades` are by split: `train` and `test`, or `test` alone to be split by the seed, or none to rank by the run.
    `inputs`: the files that were read, by the option that named them; `weights`: of the queries that have one.
    ValueError where no list is left.
    """
    queries = {query: item for query, item in queries.items() if item.chosen("both")}
    text = choose_text(options.text, documents)
    marks = collect_marks(grades.values(), run, weights or {})
    collection = Collection(queries, documents, choose_docids(options.docids, documents), text, marks)
    run = known(run, queries, documents, dropped)
    of_split = {split: known(its, queries, documents, dropped) for split, its in grades.items()}
    for query in sorted(of_split.get("train", Grades()).keys() & of_split.get("test", Grades()).keys()):
        first = next(iter(of_split["train"].pop(query).values()))
        dropped.add("training query that is in test, too", first.where, query)
    if options.docids not in DOCID_CHOICES:
        inputs = {**inputs, "docids": Path(options.docids)}
    rule = options.rule()
    ranked = {split: rank_all(rule, its, run, dropped) for split, its in of_split.items()}
    ranked = ranked or {"test": {query: rank_run(retrieved) for query, retrieved in run.items()}}
    splits = {split: make_rows(its, collection, dropped) for split, its in ranked.items()}
    empty = [split for split, rows in splits.items() if not rows]
    with listed_on_error(dropped):
        if empty:
            raise ValueError(f"no query of {' and '.join(empty)} is left; what was left out is listed above")
        splits = _split(splits, options)
    not_used = sum(its.not_used for split in ranked.values() for its in split.values())
    _write(options, tool, inputs, splits, collection, dropped, not_used)


def _split(splits: dict[str, list[Row]], options: ListOptions) -> dict[str, list[Row]]:
    """`train` and `test`, in random order: as the source has them, or by the seed."""
    if "train" not in splits:
        return split_rows(splits["test"], options.test_size, options.seed)
    if options.test_size is not None:
        raise ValueError(f"test_size={options.test_size} has no effect, as the source has a test split: drop it")
    return {split: [rows[i] for i in _order(len(rows), options.seed)] for split, rows in splits.items()}


def split_rows(rows: Sequence[Row], test_size: int | None, seed: int) -> dict[str, list[Row]]:
    """`test_size` rows (a tenth if None) for testing and the others for training, each in random order."""
    size = max(1, len(rows) // 10) if test_size is None else test_size
    if not 1 <= size < len(rows):
        raise ValueError(f"test_size={size}: there are {len(rows)} queries, and both splits need some")
    order = _order(len(rows), seed)
    return {"train": [rows[i] for i in order[size:]], "test": [rows[i] for i in order[:size]]}


def _order(count: int, seed: int) -> list[int]:
    return np.random.RandomState(seed).permutation(count).tolist()


def _write(
    options: ListOptions,
    tool: str,
    inputs: Mapping[str, Path],
    splits: Mapping[str, Sequence[Row]],
    collection: Collection,
    dropped: Dropped,
    not_used: int,
) -> None:
    """Write the dataset, the table of its items and what was dropped, and print what they hold."""
    used = {doc["docid"] for rows in splits.values() for row in rows for doc in (*row["docs"], *row["negatives"])}
    items = [document for document, docid in collection.docid_of.items() if docid in used]
    texts = [collection.documents[document].chosen("both") or "" for document in items]
    table = DocIDTable(items, [str(collection.docid_of[document]) for document in items], texts)
    manifest = describe(options, tool, inputs) | {"dropped": dropped.summary(), "irrelevant_not_used": not_used}
    tables = {split: pa.Table.from_pylist(list(rows), schema=row_schema()) for split, rows in splits.items()}
    extra = {"items": table.to_arrow(), "dropped": dropped.to_arrow()}
    manifest = write_dataset(Path(options.out), tables, f"{options.licence}\n", manifest, extra)
    print_dropped(manifest["dropped"])
    if not_used:
        print(f"  not used: {not_used:,} irrelevant documents beyond max_irrelevant={options.max_irrelevant} a query")
    for split, counts in manifest["splits"].items():
        print(f"  {split}: " + ", ".join(f"{key} {value:,}" for key, value in counts.items()))
    for note in notes([row for rows in splits.values() for row in rows]):
        print(f"  {note}")
    print(f"wrote {options.out}")


def describe(options: Any, tool: str, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The head of a manifest: a `tool`'s options, and the files that were read, by the option that named them."""
    elsewhere = {"out", "source", "seed", "licence", *inputs}  # the manifest says it otherwise, and holds no paths
    return {
        "name": Path(options.out).name,
        "tool": tool,
        "source": {key: path.name for key, path in inputs.items()},
        "version": {key: sums(path) for key, path in inputs.items()},
        "licence": options.licence,
        "seed": options.seed,
        "options": {key: value for key, value in asdict(options).items() if key not in elsewhere},
    }


def notes(rows: Sequence[Row]) -> list[str]:
    """What there is to say of rows that leave nothing to rank: one document alone, or all of them at one rank."""
    several = [row for row in rows if len(row["docs"]) > 1]
    tied = sum(row["docs"][-1]["rank"] == 1 for row in several)
    more = "; irrelevant=last adds the negatives to the lists" * any(row["negatives"] for row in rows)
    found = []
    if len(several) < len(rows):
        found.append(f"{len(rows) - len(several):,} queries have one document, which leaves nothing to rank{more}")
    if several and tied == len(several):
        found.append(
            f"note: all documents of every query tie, as their grades or scores are equal ({tied:,} queries), so there "
            f"is nothing to rank. Is the score constant (a run's ranks are not read)?{more}"
        )
    elif tied:
        found.append(f"{tied:,} of {len(several):,} queries with several documents have all of them at one rank")
    return found


def sums(path: Path) -> str | dict[str, str]:
    """The SHA-256 of a file, or of each file in a directory."""
    if path.is_file():
        return file_sha256(path)
    return {file.name: file_sha256(file) for file in sorted(path.iterdir()) if file.is_file()}
