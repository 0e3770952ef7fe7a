"""Training on prefixes that were mixed beforehand: what a model once wrote in place of some of the top docID's tokens.

Dimension letters: N trie nodes (the root included), D docIDs.

The expert, as in `mitigations.mixed_walks`, steps to the best-ranked docID below a node; its path from the root is the
gold one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stoical.trie.expert import gold_path, path_of
from stoical.trie.node_weights import Floats
from stoical.trie.prefix_tree import DocIDTrie, Ints

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


def prefix_weights(trie: DocIDTrie, ranks: Ints, weights: Floats, targets: Floats, prefix: MixedPrefix) -> Floats:
    """[N] how much of the loss each node carries where the query is trained on a mixed prefix.

    `weights` [N] are the recipe's on the gold path, `targets` [N] (`targets.node_targets`) the shares off it. On a
    prefix that is the gold path itself these are `weights`, on that path.
    """
    on_gold = _marked(trie, [0, *gold_path(trie, ranks)])[trie.parent]
    if prefix.target == "gold_position":
        return np.where(on_gold, weights, 0.0)
    visited = _marked(trie, path_of(trie, prefix.tokens))[trie.parent]
    return np.where(visited, np.where(on_gold, weights, targets), 0.0)


def _marked(trie: DocIDTrie, nodes: Sequence[int]) -> npt.NDArray[np.bool_]:
    marks = np.zeros(trie.num_nodes, dtype=bool)
    marks[list(nodes)] = True
    return marks


def fed_tokens(trie: DocIDTrie, nodes: Ints, prefix: MixedPrefix | None) -> Ints:
    """The token that is fed at each of the inner `nodes`: its own, but for the places of a gold_position prefix."""
    if prefix is None or prefix.target == "recompute":
        return trie.token[nodes]
    return np.asarray(prefix.tokens)[trie.depth[nodes] - 1]
