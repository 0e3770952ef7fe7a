"""A `DocIDTrie` as flat tensors on the model's device, for decoding: a step costs what it gathers, not the vocabulary.

Dimension letters: N trie nodes (root included, node 0), D docIDs, K nodes asked about, C children of those K together,
V vocabulary.

Gathers are `index_select`s: a third of what the same indexing with brackets costs, where there is little to gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stoical.trie.prefix_tree import DocIDTrie


@dataclass(frozen=True, slots=True)
class DeviceTrie:
    """CSR tensors of one trie: 16 bytes a node and 4 a docID, whatever the size of the vocabulary.

        trie = DeviceTrie.from_trie(build_trie(docid_ids), device=model.device)

    token [N] leads to a node (-1 at the root); child_start [N + 1]: the children of node u are nodes child_start[u] up
    to child_start[u + 1], by ascending token; doc [N] is the place in the list of the docID that ends at a node, or -1;
    counted [D] is how many of a docID's tokens its score counts. All are int32 but child_start, which every step
    computes with: int64 spares it conversions.
    """

    token: Tensor
    child_start: Tensor
    doc: Tensor
    counted: Tensor

    @classmethod
    def from_trie(
        cls, trie: DocIDTrie, counted: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Copy a trie, its arrays mapped from disk or not, to `device`.

        counted, as `TokenizedQuery.counted`: for every docID all of its tokens (which None means), or all but its
        terminator. Raises `ValueError` for anything else.
        """
        lengths = (trie.path >= 0).sum(axis=1)
        scored = lengths if counted is None else np.asarray(counted)
        if scored.shape != lengths.shape or not (np.isin(lengths - scored, (0, 1)) & (scored >= 1)).all():
            raise ValueError(
                "counted: give one number a docID, its tokens with or without the terminator "
                "(DocIDTokenizer.counted makes them), at least 1"
            )
        ends = np.full(trie.num_nodes, -1, dtype=np.int32)
        ends[trie.leaf] = np.arange(len(lengths))
        arrays = (np.array(array, dtype=np.int32) for array in (trie.token, ends, scored))
        token, doc, last = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(token, torch.from_numpy(np.array(trie.child_start)).to(device), doc, last)

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All children of `nodes` [K > 0], by `nodes` and then by token: (place of the parent [C], node [C]).

        Both int64. A leaf has none.
        """
        start, end = self._blocks(nodes)
        count = end - start
        last = count.cumsum(0)
        total = int(last[-1])
        parent = torch.repeat_interleave(count, output_size=total)
        shift = end - last  # from a child's place in the answer to its number
        return parent, torch.arange(total, device=nodes.device) + shift.index_select(0, parent)

    def has_children(self, nodes: Tensor) -> Tensor:
        """[K] False at leaves."""
        start, end = self._blocks(nodes)
        return end > start

    def inner(self) -> tuple[Tensor, Tensor]:
        """The nodes that have children, the root left out: their numbers [I], and the place of each one's parent [I].

        Both int64, ascending. Where the parent is the root, the place is the node's own.
        """
        count = self.child_start[1:] - self.child_start[:-1]
        nodes = count[1:].nonzero()[:, 0] + 1
        parent = torch.repeat_interleave(count)[nodes - 1]
        own = torch.arange(len(nodes), device=nodes.device)
        return nodes, torch.where(parent > 0, torch.searchsorted(nodes, parent), own)

    def _blocks(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The first child of every node and what comes after its last one, both [K]."""
        return self.child_start.index_select(0, nodes), self.child_start.index_select(0, nodes + 1)

    def look_up(self, values: Tensor, row: Tensor, nodes: Tensor) -> Tensor:
        """[C] of `values` [K, V], those of the tokens that lead to `nodes` [C], each in its `row` [C] (int64)."""
        token = self.token.index_select(0, nodes)
        return values.flatten().index_select(0, torch.add(token, row, alpha=values.shape[1]))
