"""Made-up corpora: documents with docIDs, and queries with their relevant documents in order.

Dimension letters: N documents, L tokens of a docID, V vocabulary, Q queries, F features, K documents of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.encoding.tokenized import TokenizedQuery


@dataclass(frozen=True, slots=True)
class World:
    """One replication: docids [N, L], and for each query features [Q, F] and its list, best first, lists [Q] of [K]."""

    docids: Ints
    features: Floats
    lists: Sequence[Ints]

    def query(self, place: int, name: str, negatives: Sequence[int] | Ints = ()) -> TokenizedQuery:
        """The query of that place with its list, and `negatives` (documents) after it."""
        relevant = self.lists[place]
        chosen = [*relevant.tolist(), *map(int, negatives)]
        docids = self.docids[chosen].tolist()
        return TokenizedQuery(
            query_id=name,
            prompt_ids=[0],  # what a model knows of the query is `features`
            docids=[str(document) for document in chosen],
            docid_ids=docids,
            counted=[len(ids) for ids in docids],
            ranks=[*range(1, len(relevant) + 1), *[len(relevant) + 1] * (len(chosen) - len(relevant))],
            num_negatives=len(chosen) - len(relevant),
        )

    def off_list(self, place: int) -> Ints:
        """The documents that are not in the query's list."""
        return np.setdiff1d(np.arange(len(self.docids)), self.lists[place])


def generator(seed: int, *path: int) -> np.random.Generator:
    """A stream of its own for a purpose and a replication, out of the study's seed."""
    return np.random.default_rng([seed, *path])


def random_docids(random: np.random.Generator, documents: int, length: int, vocabulary: int) -> Ints:
    """[N, L] distinct docIDs, each token drawn uniformly. There are at least twice as many docIDs as documents."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < documents:
        found.setdefault(tuple(random.integers(vocabulary, size=length).tolist()))
    return np.array(list(found), dtype=np.int64)


def split_docids(vectors: Floats, length: int, vocabulary: int) -> Ints:
    """[N, L] docIDs by repeated splits: a group is cut into equal parts along its first principal axis.

    Similar documents share prefixes, as they do under hierarchical k-means. Each group has the least number of parts
    that makes docIDs distinct, at most V; a group of one document goes on with token 0.
    """
    documents = len(vectors)
    parts = next(b for b in range(2, documents + 1) if b**length >= documents)
    assert parts <= vocabulary
    tokens = np.zeros((documents, length), dtype=np.int64)
    groups = [np.arange(documents)]
    for step in range(length):
        pieces: list[Ints] = []
        for group in groups:
            for token, piece in enumerate(_cut(vectors, group, parts)):
                tokens[piece, step] = token
                pieces.append(piece)
        groups = pieces
    return tokens


def _cut(vectors: Floats, group: Ints, parts: int) -> Iterator[Ints]:
    if len(group) == 1:
        yield group
        return
    centred = vectors[group] - vectors[group].mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    order = group[np.argsort(centred @ axis, kind="stable")]
    yield from (piece for piece in np.array_split(order, parts) if len(piece))


def random_world(
    random: np.random.Generator,
    hierarchical: bool,
    documents: int,
    length: int,
    vocabulary: int,
    queries: int,
    lists: tuple[int, int],
) -> World:
    """Lists of random documents, of `lists` many at least and at most; docIDs are random or split (`similar_world`).

    A query's features are random, too: nothing can be known of a query that is not in training.
    """
    if hierarchical:
        docids = split_docids(random.standard_normal((documents, 4)), length, vocabulary)
    else:
        docids = random_docids(random, documents, length, vocabulary)
    sizes = random.integers(lists[0], lists[1] + 1, size=queries)
    drawn = [random.permutation(documents)[:size] for size in sizes]
    return World(docids, random.standard_normal((queries, 8)), drawn)


def similar_world(
    random: np.random.Generator,
    hierarchical: bool,
    documents: int,
    length: int,
    vocabulary: int,
    queries: int,
    relevant: int,
    features: int,
    noise: float,
) -> World:
    """Documents and queries are vectors; a query is about one document, and its list are the most similar ones."""
    vectors = random.standard_normal((documents, features))
    about = random.integers(documents, size=queries)
    asked = vectors[about] + noise * random.standard_normal((queries, features))
    distance = ((asked[:, None] - vectors[None]) ** 2).sum(axis=2)
    lists = np.argsort(distance, axis=1, kind="stable")[:, :relevant]
    if hierarchical:
        docids = split_docids(vectors, length, vocabulary)
    else:
        docids = random_docids(random, documents, length, vocabulary)
    return World(docids, asked, list(lists))
