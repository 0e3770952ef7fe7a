"""docIDs made of small numbers, such as `[25,36,39]`: sparse dictionary codes, collisions, and the docID<->item table.

The paper's docIDs (section 5.1 and footnote 9): dictionary learning over the embeddings of the items, 100 components,
orthogonal matching pursuit with 3 non-zeros, and the indices of these by descending absolute value. Alternatives are in
`stoical.kmeans_docids`, the report on any of them in `stoical.docid_report`. All are handled as *paths*, [N, K] int64,
row n holding the components of item n's docID, -1 after the last where it has fewer than K.

Dimension letters: N items, E embedding dimensions, C atoms of the dictionary, K components of a docID, Q queries,
R documents of the longest list.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stoical.omp import batched_omp

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Collisions = Literal["keep_best", "disambiguate", "fail"]

FIT_ROWS = 100_000
"""Dictionaries and centres are learned from no more rows than this, drawn by the seed."""


def sample_rows(embeddings: Floats, seed: int) -> Floats:
    """At most FIT_ROWS rows of the embeddings, in their order, in memory."""
    if len(embeddings) <= FIT_ROWS:
        return np.array(embeddings)
    rows = np.random.RandomState(seed).choice(len(embeddings), FIT_ROWS, replace=False)
    return np.array(embeddings[np.sort(rows)])


def learn_dictionary(embeddings: Floats, components: int, alpha: float, seed: int) -> Floats:
    """A dictionary [C, E], float64, by scikit-learn's MiniBatchDictionaryLearning (see footnote 9) with its defaults.

    `alpha` (default there: 1) weighs the L1 norm of a row's code against half its squared error. With embeddings of
    norm 1 or less the codes at alpha = 1 are all zero: nothing is learned, and the atoms are rows drawn at random.
    ValueError where there are fewer rows than components.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    sample = sample_rows(embeddings, seed).astype(np.float64)
    if components > len(sample):
        raise ValueError(f"components={components}: more than the {len(sample)} rows to learn them from")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # of a row that has fewer non-zeros than asked
        atoms = MiniBatchDictionaryLearning(n_components=components, alpha=alpha, random_state=seed).fit(sample)
    dictionary: Floats = atoms.components_
    return dictionary


def sparse_paths(embeddings: Floats, dictionary: Floats, nonzeros: int, device: str = "cpu") -> Ints:
    """Paths [N, K = nonzeros]: the atoms of each row's sparse code by descending |coefficient|, then by number.

    Rows with fewer non-zeros than asked, such as all-zero embeddings, end in -1: see `short_rows`.
    """
    atoms, coefficients = batched_omp(embeddings, dictionary, nonzeros, device=device)
    size = np.where(atoms >= 0, np.abs(coefficients), -1.0)
    return np.take_along_axis(atoms, np.lexsort((atoms, -size), axis=1), axis=1)


def short_rows(paths: Ints) -> dict[int, int]:
    """How many components a row has, for the rows with fewer than K; 0 where the embedding was all zeros."""
    lengths = (paths >= 0).sum(axis=1)
    return {int(row): int(lengths[row]) for row in np.flatnonzero(lengths < paths.shape[1])}


def docid_texts(paths: Ints) -> list[str]:
    """The docIDs as the prompt writes them (Appendix B.2), such as `[25,36,39]`. ValueError for a row without any."""
    empty = np.flatnonzero((paths >= 0).sum(axis=1) == 0)
    if len(empty):
        shown = ", ".join(map(str, empty[:10]))
        raise ValueError(f"{len(empty)} rows have no component, as their embeddings are all zeros: rows {shown}")
    return [f"[{','.join(str(component) for component in path if component >= 0)}]" for path in paths.tolist()]


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


@dataclass(frozen=True)
class DocIDTable:
    """Which item has which docID: parallel lists; item ids are distinct, docIDs need not be."""

    item_ids: list[str]
    docids: list[str]
    texts: list[str]

    @cached_property
    def docid_of(self) -> dict[str, str]:
        """From item id to docID."""
        return dict(zip(self.item_ids, self.docids, strict=True))

    @cached_property
    def text_of(self) -> dict[str, str]:
        """From item id to text."""
        return dict(zip(self.item_ids, self.texts, strict=True))

    @cached_property
    def items_of(self) -> dict[str, list[str]]:
        """From docID to item ids, in order."""
        found: dict[str, list[str]] = {}
        for item, docid in zip(self.item_ids, self.docids, strict=True):
            found.setdefault(docid, []).append(item)
        return found

    def to_arrow(self) -> pa.Table:
        """The table as `save` writes it: columns item_id, docid and text."""
        return pa.table({"item_id": self.item_ids, "docid": self.docids, "text": self.texts})

    def save(self, path: str | Path) -> None:
        """Write a parquet file."""
        pq.write_table(self.to_arrow(), path, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> DocIDTable:
        """Read what `save` wrote. ValueError for a file that is no such table, or names an item twice."""
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise ValueError(f"there is no docID table {path}; data_prep writes items.parquet") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a readable parquet file: {error}") from None
        missing = {"item_id", "docid", "text"} - set(table.column_names)
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}; a docID table has item_id, docid, text"
            )
        item_ids: Sequence[str] = table["item_id"].to_pylist()
        first: dict[str, int] = {}
        for row, item in enumerate(item_ids):
            if first.setdefault(item, row) != row:
                raise ValueError(f"{path}[{row}]: item {item!r} was there before, at {path}[{first[item]}]")
        return cls(list(item_ids), table["docid"].to_pylist(), table["text"].to_pylist())
