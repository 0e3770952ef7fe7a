"""From ranked titles and docIDs to the rows of the train and test splits.

Dimension letters: Q queries, N titles, R ranks, K components of a docID.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stoical.common.arrays import Bools, Ints
from stoical.common.lazy import pa
from stoical.docids.collisions import Collisions, DocIDCollisionError, resolve_collisions

from ..dropped import Dropped
from .texts import Texts

ROWS_OF_A_CHUNK = 10_000  # of 101 titles: under the 2 GiB that a chunk of Arrow strings can hold


def subset(texts: Texts, rows: Ints) -> Texts:
    """The texts at `rows`, in their order."""
    return Texts(*([column[row] for row in rows.tolist()] for column in vars(texts).values()))


@dataclass(frozen=True)
class Lists:
    """Queries, and for each the rows of its titles [Q, R] int64, best first, -1 where a place is empty."""

    queries: Texts
    items: Ints

    def keep(self, rows: Bools) -> Lists:
        """The lists of these queries alone."""
        return Lists(subset(self.queries, np.flatnonzero(rows)), self.items[rows])

    def without(self, rows: Bools, reason: str, dropped: Dropped) -> Lists:
        """The lists without the queries at `rows` [Q], which are noted with the reason."""
        for row in np.flatnonzero(rows).tolist():
            dropped.add(reason, self.queries.where[row], self.queries.texts[row])
        return self.keep(~rows)


def settle_collisions(
    lists: Lists, titles: Texts, paths: Ints, policy: Collisions, dropped: Dropped
) -> tuple[Lists, Ints, dict[str, int]]:
    """The lists and paths after the policy, and what it took out.

    A list of several documents with one docID between them has nothing to rank: it is left out and noted. Raises
    ValueError under `fail`, naming the query and the two titles.
    """
    try:
        settled, keep = resolve_collisions(paths, lists.items, policy)
    except DocIDCollisionError as error:
        raise ValueError(_collision_text(error, lists, titles)) from None
    documents, left = (lists.items >= 0).sum(axis=1), keep.sum(axis=1)
    counts = {"documents_dropped": int((documents - left).sum()), "lists_shortened": int((left < documents).sum())}
    lists = replace(lists, items=np.where(keep, lists.items, -1))
    lists = lists.without((left == 1) & (documents > 1), "query whose documents all share a docID", dropped)
    if not len(lists.items):
        raise ValueError("every list has one docID for all its documents; give collisions=disambiguate")
    return lists, settled, counts


def _collision_text(error: DocIDCollisionError, lists: Lists, titles: Texts) -> str:
    first, second = (f"{titles.texts[row]!r} ({titles.where[row]})" for row in (error.first, error.second))
    query = f"query {lists.queries.texts[error.query]!r} ({lists.queries.where[error.query]})"
    return f"{query}: {first} and {second} share a docID; give collisions=keep_best or collisions=disambiguate"


def split_rows(queries: Texts, by_data: bool, test_size: int, seed: int) -> dict[str, Ints]:
    """Rows of the train and of the test queries, each in random order, so that the first n are a random sample.

    By the data's own split if `by_data`, else `test_size` queries drawn by the seed. Raises ValueError for a split that
    is empty, and with `by_data` for a query whose split is neither train nor test.
    """
    order = np.random.RandomState(seed).permutation(len(queries))
    if not by_data:
        if not 1 <= test_size < len(queries):
            raise ValueError(f"test_size={test_size}: there are {len(queries)} queries, and both splits need some")
        return {"train": order[test_size:], "test": order[:test_size]}
    for row, split in enumerate(queries.split):
        if split not in ("train", "test"):
            told = "no split" if split is None else f"split {split!r}"
            raise ValueError(f"{queries.where[row]}: {told}, not train or test; give split=seeded to draw your own")
    rows = {split: order[[queries.split[row] == split for row in order]] for split in ("train", "test")}
    empty = [split for split in rows if not len(rows[split])]
    if empty:
        raise ValueError(f"the data's split column leaves no {empty[0]} query; give split=seeded to draw your own")
    return rows


def rows_table(lists: Lists, rows: Ints, docids: pa.Array, titles: pa.Array) -> pa.Table:
    """The dataset rows (see `stoical.data.rows`) of these queries, made without a Python object for every document."""
    chunks = [rows[start : start + ROWS_OF_A_CHUNK] for start in range(0, len(rows), ROWS_OF_A_CHUNK)]
    return pa.concat_tables(_chunk(lists, chunk, docids, titles) for chunk in chunks)


def _chunk(lists: Lists, rows: Ints, docids: pa.Array, titles: pa.Array) -> pa.Table:
    items, queries = lists.items[rows], subset(lists.queries, rows)
    places = pa.array(items[items >= 0])
    offsets = np.concatenate([[0], np.cumsum((items >= 0).sum(axis=1))]).astype(np.int32)
    documents = pa.StructArray.from_arrays([docids.take(places), titles.take(places)], names=["docid", "text"])
    columns = [pa.array(queries.ids), pa.array(queries.texts), pa.ListArray.from_arrays(pa.array(offsets), documents)]
    return pa.table(columns, names=["query_id", "query", "docs"])
