"""A `DocIDTrie` as flat tensors on the model's device, for decoding: a step costs what it gathers, not the vocabulary.

Dimension letters: N trie nodes (root included, node 0), D docIDs, K nodes asked about, C children of those K together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stoical.trie import DocIDTrie


@dataclass(frozen=True, slots=True)
class DeviceTrie:
    """CSR tensors of one trie: 12 bytes a node and 4 a docID (all int32), whatever the size of the vocabulary.

    token [N] leads to a node (-1 at the root); child_start [N + 1]: the children of node u are nodes child_start[u] up
    to child_start[u + 1], by ascending token; doc [N] is the place in the list of the docID that ends at a node, or -1;
    counted [D] is how many of a docID's tokens its score counts.
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
        arrays = (trie.token, trie.child_start, ends, scored)
        return cls(*(torch.from_numpy(np.array(array, dtype=np.int32)).to(device) for array in arrays))

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All children of `nodes` [K], in the order of `nodes` and then of tokens: (place of the parent [C], node [C]).

        Both int64. A leaf has none.
        """
        start = self.child_start.index_select(0, nodes)
        count = self.child_start.index_select(0, nodes + 1) - start
        parent = torch.repeat_interleave(count.long())
        shift = start - count.cumsum(0) + count  # from a child's place in the answer to its number
        return parent, torch.arange(len(parent), device=nodes.device) + shift.index_select(0, parent)

    def has_children(self, nodes: Tensor) -> Tensor:
        """[K] False at leaves."""
        return self.child_start[nodes + 1] > self.child_start[nodes]
