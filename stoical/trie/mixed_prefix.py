"""Training on prefixes that were mixed beforehand: what a model once wrote in place of some of the top docID's tokens.

Dimension letters: N trie nodes (the root included), D docIDs.

The expert (`trie.expert`) steps to the best-ranked docID below a node; its path from the root is the gold one. Of
docIDs that share rank 1 it is the one listed first, which encoding draws; the row stands for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.trie.expert import gold_path, path_of
from stoical.trie.prefix_tree import DocIDTrie

PrefixTarget = Literal["recompute", "gold_position"]


@dataclass(frozen=True, slots=True)
class MixedPrefix:
    """The token ids that a query is trained on the prefixes of, gold ones and a model's, and what is their target.

    recompute: the rank-aware target of the trie node that a prefix leads to, as far as the trie has it.
    gold_position: the gold docID's target of the position, whatever stands before it; `tokens` take the gold inputs'
    places, one by one (all but the last token of the gold docID).
    """

    tokens: Sequence[int]
    target: PrefixTarget


def prefix_weights(trie: DocIDTrie, ranks: Ints, targets: Floats, prefix: MixedPrefix) -> Floats:
    """[N] how much of the loss each node carries where the query is trained on a mixed prefix.

    `targets` [N] (`node_weights.node_targets`) at the nodes of the prefix, or of the gold path, times the number of
    docIDs that share the best of `ranks` [D]: the recipe's loss sums over their paths, and this is one of them, drawn.
    So where the prefix is the gold path itself, the mean over the draw is the recipe's loss.
    """
    literal = prefix.target == "gold_position"
    path = [0, *gold_path(trie, ranks)] if literal else path_of(trie, prefix.tokens)
    on_path = np.zeros(trie.num_nodes, dtype=bool)
    on_path[path] = True
    return np.where(on_path[trie.parent], (ranks == ranks.min()).sum() * targets, 0.0)


def fed_tokens(trie: DocIDTrie, nodes: Ints, prefix: MixedPrefix | None) -> Ints:
    """The token that is fed at each of the inner `nodes`: its own, but for the places of a gold_position prefix."""
    if prefix is None or prefix.target == "recompute":
        return trie.token[nodes]
    return np.asarray(prefix.tokens)[trie.depth[nodes] - 1]
