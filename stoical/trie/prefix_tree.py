"""The prefix tree of one query's tokenized docIDs, as flat numpy arrays.

Dimension letters: D docIDs, L tokens of the longest docID, N trie nodes (the root included).

Node 0 is the root. Nodes are numbered level by level, and siblings lie side by side in the order of their token ids,
so the children of node u are the contiguous block `child_start[u] : child_start[u + 1]`, and every node comes after
its parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

import numpy as np

from stoical.common.arrays import Bools, Ints


class DuplicateDocIDError(ValueError):
    """Two docIDs of one query have the same token ids; `first` and `second` are their places in the list."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"docIDs {first} and {second} have the same token ids")
        self.first, self.second = first, second


@dataclass(frozen=True, slots=True)
class DocIDTrie:
    """A prefix tree over D tokenized docIDs (section 4.3 of the SToICaL paper).

    token [N] is the token that leads to a node (-1 at the root), parent [N] its parent (the root is its own), depth [N]
    its distance from the root in tokens, child_start [N + 1] the first child of every node (see above), path [D, L] the
    nodes of each docID from depth 1 down, padded with -1. All are int64.
    """

    token: Ints
    parent: Ints
    depth: Ints
    child_start: Ints
    path: Ints

    @property
    def num_nodes(self) -> int:
        """N, the root included."""
        return len(self.token)

    @property
    def leaf(self) -> Ints:
        """[D] the node where each docID ends; an inner node when the docID is a prefix of another."""
        return self.path[np.arange(len(self.path)), (self.path >= 0).sum(axis=1) - 1]

    def children(self, node: int) -> Ints:
        """The child nodes of `node`, by ascending token id."""
        return np.arange(self.child_start[node], self.child_start[node + 1])


def build_trie(docids: Sequence[Sequence[int]]) -> DocIDTrie:
    """Build the trie of D non-empty sequences of token ids, in any order.

        trie = build_trie([[5, 2], [5, 3, 2], [7, 2]])
        trie.num_nodes, trie.leaf  # 7 with the root; the node where each of the three ends

    Raises `DuplicateDocIDError` for two equal sequences and `ValueError` for an empty one or none at all. Cost: one
    lexicographic sort of the [D, L] id matrix.
    """
    lengths = np.fromiter(map(len, docids), dtype=np.int64, count=len(docids))
    if not len(lengths) or not lengths.all():
        raise ValueError("a trie needs at least one docID, and every docID at least one token")
    filled = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(filled.shape, -1, dtype=np.int64)
    ids[filled] = np.fromiter(chain.from_iterable(docids), dtype=np.int64, count=lengths.sum())

    order = np.lexsort(ids.T[::-1])
    ids, filled = ids[order], filled[order]
    opens = filled.copy()  # [D, L] does this cell start a node that no earlier row has?
    opens[1:] &= np.logical_or.accumulate(ids[1:] != ids[:-1], axis=1)
    repeated = np.flatnonzero(~opens.any(axis=1))
    if len(repeated):
        first, second = sorted(order[repeated[0] - 1 : repeated[0] + 1])
        raise DuplicateDocIDError(int(first), int(second))
    return _number_by_level(ids, filled, opens, order)


def _number_by_level(ids: Ints, filled: Bools, opens: Bools, order: Ints) -> DocIDTrie:
    level_sizes = opens.sum(axis=0)
    nodes = np.cumsum(opens, axis=0, dtype=np.int64)  # [D, L]
    nodes += np.cumsum(level_sizes) - level_sizes
    nodes[~filled] = -1

    level, row = np.nonzero(opens.T)  # level by level, so already in node order
    token = np.concatenate([[-1], ids[row, level]])
    parent = np.concatenate([[0], np.where(level > 0, nodes[row, level - 1], 0)])
    depth = np.concatenate([[0], level + 1])
    path = np.empty_like(nodes)
    path[order] = nodes
    return DocIDTrie(token=token, parent=parent, depth=depth, child_start=_child_start(parent), path=path)


def _child_start(parent: Ints) -> Ints:
    """[N + 1] the first child of every node, from the nodes' parents [N]."""
    return 1 + np.concatenate([[0], np.cumsum(np.bincount(parent[1:], minlength=len(parent)))])


def first_docids(trie: DocIDTrie, count: int) -> tuple[DocIDTrie, Ints]:
    """The trie of the first `count` docIDs alone, as `build_trie` makes it, and its nodes' numbers in the whole one."""
    path = trie.path[:count]
    path = path[:, : int((path >= 0).sum(axis=1).max())]
    kept = np.zeros(trie.num_nodes + 1, dtype=bool)
    kept[path] = True
    kept[0], kept[-1] = True, False  # the root; -1 pads paths
    place = np.flatnonzero(kept)
    number = np.cumsum(kept) - 1  # of the kept nodes: their own
    number[-1] = -1
    parent = number[trie.parent[place]]
    return DocIDTrie(trie.token[place], parent, trie.depth[place], _child_start(parent), number[path]), place


def save_trie(trie: DocIDTrie, directory: Path) -> None:
    """Write the trie's arrays to `<directory>/<array>.npy`, over those of an earlier trie."""
    directory.mkdir(parents=True, exist_ok=True)
    for field in fields(trie):
        np.save(directory / f"{field.name}.npy", getattr(trie, field.name), allow_pickle=False)


def load_trie(directory: Path) -> DocIDTrie:
    """The trie that `save_trie` wrote, its arrays mapped read-only: pages are read where they are touched.

    Raises `ValueError` naming the file that is missing or damaged, and for arrays that are not of one trie.
    """
    arrays = {}
    for field in fields(DocIDTrie):
        path = directory / f"{field.name}.npy"
        try:
            arrays[field.name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is not an array of a saved trie ({error}); save_trie writes one") from error
    trie = DocIDTrie(**arrays)
    if not len(trie.token) == len(trie.parent) == len(trie.depth) == len(trie.child_start) - 1 == trie.child_start[-1]:
        raise ValueError(f"{directory}: the arrays are not of one trie; save it again with save_trie")
    return trie
