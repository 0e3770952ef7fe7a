"""A batch: prompts and trie nodes of several queries in one rectangle of tokens.

Dimension letters: B queries, P prompt columns, I node columns (inner trie nodes), T = P + I, M trie nodes of the whole
batch (each query's root included), D docIDs of the batch, L tokens of the longest docID.

Row b of `input_ids` is

    [ prompt of query b, right-padded to P | its inner nodes, level by level, padded to I ]

Leaves are never inputs: their log-probability is read at their parent. Roots are not inputs either: what follows the
root is read at the last prompt token.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from stoical.common.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B queries and their tries as tensors (see the module docstring for the dimension letters).

    input_ids, position_ids [B, T] int64; prompt_width = P; prompt_lengths, node_counts [B]: how many of the P and of
    the I columns hold tokens; node_up [B, I] int64: the node column that each one's token follows, itself where that is
    the prompt, and at padding; levels: at least as many as the node columns on the way down to any, itself included.
    Per trie node, [M] int64: node_row its query, node_col the column of [B, T] where its parent stands (so its
    log-probability is read there), node_token (-1 at roots), node_parent (an index into M; a root is its own),
    node_depth, node_rank the best rank of the docIDs at or below it (`node_weights.UNLISTED` if all are negatives).
    Per trie node, [M] float32: node_weights, which the weights of query and docID multiply, and node_target, its share
    of the target at its parent (`node_weights.node_targets`).
    doc_path [D, L] the counted nodes of each docID (indices into M, padded with -1); doc_query, doc_rank [D];
    doc_negative [D] bool; doc_grade, doc_weight, doc_teacher [D] float32: the user's grade (NaN: none), how much it
    counts, and a teacher's score (NaN: none).
    query_weight [B] float32. num_tokens: input tokens that are not padding; num_points: Eq. 11's points in the batch,
    each counted by its weight; num_dropped: documents that truncation dropped; num_pruned: docIDs whose nodes are not
    all here; filler: the batch counts nothing (`training.ragged_epochs`).
    """

    query_ids: tuple[str, ...]
    prompt_width: int
    num_tokens: int
    num_points: float
    num_dropped: int
    num_pruned: int
    filler: bool
    levels: int
    input_ids: Tensor
    position_ids: Tensor
    prompt_lengths: Tensor
    node_counts: Tensor
    node_up: Tensor
    query_weight: Tensor
    node_row: Tensor
    node_col: Tensor
    node_token: Tensor
    node_parent: Tensor
    node_depth: Tensor
    node_rank: Tensor
    node_weights: Tensor
    node_target: Tensor
    doc_path: Tensor
    doc_query: Tensor
    doc_rank: Tensor
    doc_negative: Tensor
    doc_grade: Tensor
    doc_weight: Tensor
    doc_teacher: Tensor

    @property
    def holds_tokens(self) -> Tensor:
        """[B, T] True at prompt tokens and nodes, False at padding."""
        prompt = torch.arange(self.prompt_width, device=self.input_ids.device) < self.prompt_lengths[:, None]
        nodes = torch.arange(self.node_up.shape[1], device=self.input_ids.device) < self.node_counts[:, None]
        return torch.cat([prompt, nodes], dim=1)

    @property
    def node_mask(self) -> Tensor:
        """[B, I, T] True where a node column attends to a column: the prompt, its ancestors, itself.

        Made when it is asked for, on the batch's device: it is by far the largest of its tensors. Padding attends to
        itself, never to nothing.
        """
        prompt, nodes = self.holds_tokens.tensor_split([self.prompt_width], dim=1)
        return torch.cat([prompt[:, None] & nodes[:, :, None], ancestors(self.node_up, self.levels)], dim=2)

    def _map(self, function: Any) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: function(v) for k, v in tensors.items() if isinstance(v, torch.Tensor)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; the data loader calls this for GPU runs."""
        return self._map(lambda tensor: tensor.pin_memory())


def ancestors(up: Tensor, levels: int) -> Tensor:
    """[B, I, I] True where a node column attends to another, its ancestors and itself, from `PackedBatch`'s node_up.

    A round doubles the steps up that are covered: what a column sees, and what the last one of these sees.
    """
    rows, count = up.shape
    up = (up + count * torch.arange(rows, device=up.device)[:, None]).flatten()
    sees = torch.eye(count, dtype=torch.bool, device=up.device).repeat(rows, 1)
    for _ in range((levels - 1).bit_length()):
        sees |= sees.index_select(0, up)
        up = up[up]
    return sees.view(rows, count, count)
