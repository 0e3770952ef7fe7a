"""The expert's path down a trie: at every node it steps towards the best-ranked docID below.

Dimension letters: N trie nodes (the root included), D docIDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from stoical.common.arrays import Ints
from stoical.trie.node_weights import best_ranks
from stoical.trie.prefix_tree import DocIDTrie, build_trie


def expert_steps(trie: DocIDTrie, ranks: Ints) -> Ints:
    """[N] the child of each node that leads to the best of `ranks` [D]; -1 at leaves. Of equals, the one listed first.

    Which of equals is first is drawn where queries are encoded (`encoding.queries.with_drawn_ties`).
    """
    places = np.argsort(np.argsort(ranks, kind="stable"))
    order = 1 + np.lexsort((best_ranks(trie, places)[1:], trie.parent[1:]))
    parents, first = np.unique(trie.parent[order], return_index=True)
    steps = np.full(trie.num_nodes, -1)
    steps[parents] = order[first]
    return steps


def gold_path(trie: DocIDTrie, ranks: Ints) -> list[int]:
    """The nodes that the expert visits, from depth 1 down to a leaf."""
    steps, path = expert_steps(trie, ranks), [0]
    while (node := int(steps[path[-1]])) >= 0:
        path.append(node)
    return path[1:]


def child(trie: DocIDTrie, node: int, token: int) -> int:
    """The child that `token` leads to from `node`, or -1."""
    start, end = trie.child_start[node : node + 2]
    place = int(start + np.searchsorted(trie.token[start:end], token))
    return place if place < end and trie.token[place] == token else -1


def path_of(trie: DocIDTrie, tokens: Sequence[int]) -> list[int]:
    """The nodes that `tokens` lead to, as far as the trie has them: the root first."""
    path = [0]
    for token in tokens:
        node = child(trie, path[-1], token)
        if node < 0:
            break
        path.append(node)
    return path


@dataclass(frozen=True, slots=True)
class ExpertTrie:
    """A query's trie, the expert's step at each of its nodes (-1 at leaves), and the nodes and tokens of its path."""

    trie: DocIDTrie
    steps: Ints
    gold: list[int]

    @classmethod
    def of(cls, docid_ids: Sequence[Sequence[int]], docid_ranks: Sequence[int]) -> Self:
        """The trie of a query's docIDs, negatives left out, with the expert's steps by their ranks."""
        trie, ranks = build_trie(docid_ids), np.asarray(docid_ranks)
        return cls(trie, expert_steps(trie, ranks), gold_path(trie, ranks))

    @property
    def gold_tokens(self) -> list[int]:
        """The tokens of the top docID."""
        return self.trie.token[self.gold].tolist()

    def children(self, node: int) -> Ints:
        """The tokens that lead on from a node."""
        start, end = self.trie.child_start[node : node + 2]
        return self.trie.token[start:end]
