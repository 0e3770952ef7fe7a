"""What a set of docIDs is like: how many are distinct, how often lists hold one twice, and the shape of their trie.

The trie here is over components, not tokens: it tells docIDs apart before any tokenizer is chosen.

Dimension letters: N items, K components of the longest docID, Q queries, R documents of the longest list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stoical.common.arrays import Ints
from stoical.docids.collisions import repeated, same_docid


def docid_report(paths: Ints, lists: Ints) -> dict[str, Any]:
    """Counts of items, docIDs and collisions, and trie shapes, ready for JSON.

    `paths` [N, K] as in `stoical.docids.sparse_codes`, before any collision is resolved; `lists` [Q, R] rows of items,
    -1 for none.
    """
    groups = same_docid(paths)
    again = repeated(groups, lists).sum(axis=1)
    return {
        "items": len(paths),
        "distinct_docids": int(groups.max()) + 1,
        "largest_group": int(np.bincount(groups).max()),
        "lists": len(lists),
        "lists_with_duplicates": int((again > 0).sum()),
        "duplicates": int(again.sum()),
        "duplicates_per_list": round(float(again.mean()), 4),
        "most_duplicates_in_a_list": int(again.max()),
        "trie": trie_shape(paths),
        "trie_of_a_list": mean_list_trie(paths, lists),
    }


def prefix_numbers(paths: Ints) -> Ints:
    """[N, K] a number for each item's prefix of length 1..K, equal for equal prefixes; ended paths stay apart."""
    numbers = np.empty_like(paths)
    previous, span = np.zeros(len(paths), dtype=np.int64), int(paths.max()) + 2
    for k in range(paths.shape[1]):
        previous = np.unique(previous * span + paths[:, k] + 1, return_inverse=True)[1].astype(np.int64)
        numbers[:, k] = previous
    return numbers


def trie_shape(paths: Ints) -> dict[str, Any]:
    """Nodes (the root included), and by depth: nodes, mean and largest number of children, and entropy in nats.

    The entropy at a depth is that of the component there given the ones before it, for an item drawn uniformly; an end
    counts as a component. They add up to the docID's entropy, at most log N and equal to it without collisions.
    """
    numbers, depth = prefix_numbers(paths), paths.shape[1]
    nodes, mean, largest, entropy = [], [], [], []
    before, above = np.zeros(len(paths), dtype=np.int64), 0.0
    for k in range(depth):
        real = paths[:, k] >= 0
        edges = np.unique(np.column_stack([before, numbers[:, k]])[real], axis=0)
        children = np.unique(edges[:, 0], return_counts=True)[1]
        nodes.append(len(edges))
        mean.append(round(float(children.mean()), 4) if len(children) else 0.0)
        largest.append(int(children.max(initial=0)))
        shares = np.bincount(numbers[:, k]) / len(paths)
        total = float(-(shares * np.log(shares)).sum())
        entropy.append(round(total - above, 4))
        before, above = numbers[:, k], total
    return {
        "nodes": 1 + sum(nodes),
        "nodes_by_depth": nodes,
        "children_mean": mean,
        "children_most": largest,
        "entropy_by_depth": entropy,
        "entropy": round(above, 4),
        "entropy_if_distinct": round(float(np.log(len(paths))), 4),
    }


def mean_list_trie(paths: Ints, lists: Ints) -> dict[str, Any]:
    """The mean over lists of the number of trie nodes by depth (root excluded): what one prompt's trie is like."""
    numbers = prefix_numbers(paths)
    query, place = np.nonzero(lists >= 0)
    items = lists[query, place]
    nodes = []
    for k in range(paths.shape[1]):
        real = paths[items, k] >= 0
        keys = query * len(paths) + numbers[items, k]
        nodes.append(round(len(np.unique(keys[real])) / len(lists), 4))
    return {"documents": round(len(items) / len(lists), 4), "nodes_by_depth": nodes}


def word_paths(texts: Sequence[str]) -> Ints:
    """Paths [N, K] of plain text docIDs, one number a word: for the report, as no tokenizer is chosen yet."""
    words: dict[str, int] = {}
    rows = [[words.setdefault(word, len(words)) for word in text.split()] for text in texts]
    paths = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for path, row in zip(paths, rows, strict=True):
        path[: len(row)] = row
    return paths
