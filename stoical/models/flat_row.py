"""A batch as one row of tokens: the model's layers see no padding, and its attention unfolds the row again.

Dimension letters: B queries, P prompt columns, I node columns, T = P + I (a packed batch's rectangle), N tokens that
are not padding, K read-out slots (the parents of trie nodes), M trie nodes, H hidden size.

Embeddings, norms, linear layers and experts work on each token by itself, so that they can have the tokens of all
queries side by side. Attention cannot: `attention.trie_sdpa_attention` puts queries, keys and values back into the
rectangle. What it needs for that travels in the mask, so that it is there again when activation checkpointing repeats a
layer, whatever passes came between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.layouts import TRIE_ATTENTION
from stoical.models.unwrapped import unwrapped


@dataclass(frozen=True, slots=True)
class FlatRow:
    """Where a batch's tokens stand, in the order of its rectangle: query by query, the prompt before the nodes.

    place [N]: of every token in the B * T places of the rectangle. read [K]: the row's columns that logits are made at.
    slot [M]: which of these is a node's parent. lengths [N]: how many tokens the token's query has. mask
    [B, 1, 1 + I, T] bool: first the columns that hold tokens, then what every node column attends to.
    """

    place: Tensor
    read: Tensor
    slot: Tensor
    lengths: Tensor
    mask: Tensor

    @classmethod
    def of(cls, batch: PackedBatch) -> FlatRow:
        """The row of a packed batch."""
        holds = batch.holds_tokens
        rows, total = holds.shape
        parent = batch.node_row * total + batch.node_col
        read = torch.zeros_like(holds).view(-1).index_fill(0, parent, True)
        column = holds.view(-1).cumsum(0) - 1
        return cls(
            place=holds.view(-1).nonzero()[:, 0],
            read=column[read],
            slot=(read.cumsum(0) - 1)[parent],
            lengths=holds.sum(dim=1, keepdim=True).expand(rows, total)[holds],
            mask=torch.cat([holds[:, None], batch.node_mask], dim=1)[:, None],
        )

    def pick(self, values: Tensor) -> Tensor:
        """`values` [B, T, ...] of the tokens alone: [1, N, ...]."""
        return values.flatten(0, 1)[self.place][None]


def is_flat(attention: str, queries: int) -> bool:
    """Whether a batch runs as a flat row: the attention is ours, which unfolds it, and there are several queries.

    One query has no padding: its rectangle is the flat row.
    """
    return attention == TRIE_ATTENTION and queries > 1


@contextmanager
def noise_by_query(model: nn.Module, lengths: Tensor) -> Iterator[None]:
    """Let NEFTune count each query's own tokens, `lengths` [N], not those of the whole row.

    In here its hook on the embedding adds nothing, and ours adds uniform noise of up to alpha / sqrt(L H).
    """
    embed: Any = unwrapped(model).get_input_embeddings() if model.training else None
    alpha = getattr(embed, "neftune_noise_alpha", None)
    if alpha is None:
        yield
        return

    def add_noise(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        bound = alpha / (lengths * output.shape[-1]).float().sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * bound[:, None].to(output.dtype)

    embed.neftune_noise_alpha = 0.0
    hook = embed.register_forward_hook(add_noise, prepend=True)
    try:
        yield
    finally:
        hook.remove()
        embed.neftune_noise_alpha = alpha
