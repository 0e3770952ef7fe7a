"""Items that share a docID: who has it twice, and what is done about it.

Dimension letters: N items, K components of a docID, Q queries, R documents of the longest list.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from stoical.common.arrays import Bools, Ints

Collisions = Literal["keep_best", "disambiguate", "fail"]


class DocIDCollisionError(ValueError):
    """Two documents of list `query` share a docID; `first` and `second` are the rows of the items."""

    def __init__(self, query: int, first: int, second: int) -> None:
        super().__init__(f"list {query}: items {first} and {second} have the same docID")
        self.query, self.first, self.second = query, first, second


def resolve_collisions(paths: Ints, lists: Ints, policy: Collisions) -> tuple[Ints, Bools]:
    """The paths to use, and which documents of the lists to keep [Q, R]; lists [Q, R] are rows of items, -1 for none.

    keep_best: of the documents of a list that share a docID, the best-ranked keeps it and the others leave that list.
    disambiguate: items that share a docID get a further component, see `disambiguate`; all documents stay.
    fail: DocIDCollisionError for the first list with a collision.
    """
    if policy == "disambiguate":
        return disambiguate(paths), lists >= 0
    groups = same_docid(paths)
    again = repeated(groups, lists)
    if policy == "fail" and again.any():
        query = int(np.flatnonzero(again.any(axis=1))[0])
        second = int(lists[query, again[query].argmax()])
        first = next(item for item in lists[query].tolist() if groups[item] == groups[second])
        raise DocIDCollisionError(query, first, second)
    return paths, (lists >= 0) & ~again


def same_docid(paths: Ints) -> Ints:
    """[N] a number for every item, equal for those with the same docID."""
    return np.unique(paths, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def repeated(groups: Ints, lists: Ints) -> Bools:
    """[Q, R] True where a better-ranked document of the list has the same docID. `groups` is from `same_docid`."""
    absent = -1 - np.arange(lists.shape[1])  # a number of its own for every empty place
    docids = np.where(lists >= 0, groups[lists], absent)
    order = np.argsort(docids, axis=1, kind="stable")
    ordered = np.take_along_axis(docids, order, axis=1)
    again = np.zeros(lists.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def disambiguate(paths: Ints) -> Ints:
    """[N, K + 1] distinct paths: of items with the same docID the first in order keeps it, the others get 1, 2, ..."""
    groups = same_docid(paths)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    number = np.empty(len(paths), dtype=np.int64)
    number[order] = np.arange(len(paths)) - np.repeat(starts, np.diff(starts, append=len(paths)))
    assert (paths[number > 0] >= 0).all(), "a shorter docID would need its number in the middle"
    return np.column_stack([paths, np.where(number > 0, number, -1)])
