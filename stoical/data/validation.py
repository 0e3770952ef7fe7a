"""Checks of ranking data on disk: every problem with its file and line, and counts of what valid rows hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoical.common.progress import progress
from stoical.common.text_files import kind
from stoical.data.files import decoded, load_manifest, raw_rows, split_files
from stoical.data.rows import RankingRow, parse_row, row_problems

SPLITS = ("train", "test")
LIMIT = 20


@dataclass
class Problems:
    """The first `limit` problems, and how many there are."""

    limit: int
    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, messages: Iterable[str]) -> None:
        """Count the problems, and keep them while there is room."""
        for message in messages:
            self.count += 1
            self.shown += [message] * (self.count <= self.limit)


@dataclass
class Counts:
    """What valid rows hold: each query's number of documents, and how often a query or docID comes."""

    lengths: Counter[int] = field(default_factory=Counter)
    negatives: Counter[int] = field(default_factory=Counter)
    queries: Counter[str] = field(default_factory=Counter)
    docids: Counter[str] = field(default_factory=Counter)
    text_of: dict[str, str] = field(default_factory=dict)
    several_texts: set[str] = field(default_factory=set)
    tied_queries: int = 0
    weighted: int = 0
    without_teacher: int = 0
    with_teacher: int = 0
    graded_queries: int = 0
    without_text: int = 0

    def add(self, row: RankingRow) -> None:
        """Count a valid row."""
        self.lengths[len(row.docs)] += 1
        self.negatives[len(row.negatives)] += 1
        self.queries[row.query] += 1
        self.tied_queries += len(set(row.ranks)) < len(row.ranks)
        self.weighted += row.weight is not None or any(doc.weight is not None for doc in row.docs)
        self.graded_queries += any(doc.grade is not None for doc in (*row.docs, *row.negatives))
        for doc in (*row.docs, *row.negatives):
            self.with_teacher += doc.teacher_score is not None
            self.without_teacher += doc.teacher_score is None
            self.docids[doc.docid] += 1
            if doc.text is None:
                self.without_text += 1
            elif self.text_of.setdefault(doc.docid, doc.text) != doc.text:
                self.several_texts.add(doc.docid)

    def lines(self) -> Iterator[str]:
        """The lines to print: one for each count, the rarer ones only where they are not zero."""
        yield f"queries: {self.lengths.total():,}; documents a query: {spread(self.lengths)}"
        yield (
            f"negatives a query: {spread(self.negatives)}"
            if any(self.negatives)
            else "no negatives (CVR needs some in test)"
        )
        yield f"distinct docIDs: {len(self.docids):,} for {self.docids.total():,} documents and negatives"
        repeated = [query for query, count in self.queries.items() if count > 1]
        rarer = {
            "queries with one document, which leave nothing to rank": self.lengths[1],
            "queries with ties": self.tied_queries,
            "queries with grades": self.graded_queries,
            "queries with weights, their own or of documents": self.weighted,
            "documents and negatives with a teacher's score": self.with_teacher,
            "documents and negatives without one": self.without_teacher if self.with_teacher else 0,
            f"queries whose text comes again, such as {repeated[:1]}": len(repeated),
            "documents and negatives without text": self.without_text,
            f"docIDs with several texts, such as {sorted(self.several_texts)[:1]}": len(self.several_texts),
        }
        yield from (f"{what}: {count:,}" for what, count in rarer.items() if count)


def spread(counter: Counter[int]) -> str:
    """Minimum, maximum, mean and sum of counted numbers, in words."""
    total = sum(number * count for number, count in counter.items())
    return f"{min(counter):,} to {max(counter):,}, {total / counter.total():,.1f} on average, {total:,} in all"


def check_rows(path: Path, problems: Problems) -> Counts:
    """Check every row of one split, and count the valid ones. Long files show their progress."""
    counts, first, before = Counts(), dict[str, str](), problems.count
    for where, raw in _read(path, "checking", problems):
        found = row_problems(raw, where)
        query_id = raw.get("query_id") if isinstance(raw, dict) else None
        if isinstance(query_id, str) and first.setdefault(query_id, where) != where:
            found.append(f"{where}: query_id {query_id!r} was used before, at {first[query_id]}; rename or merge one")
        problems.add(found)
        if not found:
            counts.add(parse_row(raw, where))
    if not counts.lengths and problems.count == before:
        problems.add([f"{path} holds no rows"])
    return counts


def _read(path: Path, what: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    """(place, object) of every row that can be read; the others, and a file that cannot, are problems."""
    try:
        for where, row in progress(raw_rows(path), f"{what} {path}"):
            try:
                raw = decoded(row, where)
            except ValueError as error:
                problems.add([str(error)])
                continue
            yield where, raw
    except (ValueError, OSError) as error:
        problems.add([str(error)])


def find_files(path: Path, problems: Problems) -> list[Path]:
    """The files of the splits of a dataset directory, or `path` itself if it is one split."""
    if not path.exists():
        raise ValueError(f"there is no {path}; give a dataset directory, or a .jsonl or .parquet file")
    if path.is_file():
        if kind(path) != ".jsonl" and path.suffix != ".parquet":
            raise ValueError(
                f"{path}: a split is a .jsonl or a .parquet file (.jsonl.gz, too), or a directory by datasets' "
                "save_to_disk"
            )
        return [path]
    if (path / "state.json").is_file():  # as save_to_disk leaves it
        return [path]
    found = {split: split_files(path, split) for split in SPLITS}
    for split, files in found.items():
        names = " and ".join(file.name for file in files)
        if not files:
            problems.add([f"{path} has no {split} split: add {split}.jsonl, {split}.parquet or {split}/"])
        elif len(files) > 1:
            problems.add([f"{path} has {names} for {split!r}; keep one of them"])
    try:
        load_manifest(path)
    except ValueError as error:
        problems.add([f"{error}; {{}} will do"])
    return [file for files in found.values() for file in files]


def leaks(counts: Sequence[Counts]) -> list[str]:
    """A line on the queries that several splits have, if there are any."""
    shared = set[str].intersection(*({*each.queries} for each in counts)) if len(counts) > 1 else set()
    return [f"queries in train and in test: {len(shared):,}, such as {sorted(shared)[:1]}"] * bool(shared)
