"""Attention over a prompt and trie nodes: the kernel, and the masks in the form that each implementation wants.

Dimension letters: B queries, I node columns, T columns in all, N tokens of a flat row (`flat_row`), A heads of size E.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.layouts import TRIE_ATTENTION
from stoical.models.unwrapped import unwrapped


def trie_sdpa_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """SDPA that takes a mask for the last rows only, [B, 1, I, T]: the T - I rows before them are plain causal.

    The prompt's rows then run on the fast causal kernel and no [T, T] mask exists. Given a mask for every row, or none,
    it is transformers' own `sdpa`. Given one row and the mask of several, it is a flat row, with `FlatRow.mask`.
    """
    if attention_mask is not None and query.shape[0] == 1 < attention_mask.shape[0]:
        return _flat_attention(module, query, key, value, attention_mask, **kwargs)
    rows = query.shape[2]
    masked = 0 if attention_mask is None else attention_mask.shape[-2]
    if masked in (0, rows) or key.shape[2] != rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    prompt = rows - masked
    causal, _ = sdpa_attention_forward(
        module, query[:, :, :prompt], key[:, :, :prompt], value[:, :, :prompt], None, **kwargs
    )
    nodes, _ = sdpa_attention_forward(module, query[:, :, prompt:], key, value, attention_mask, **kwargs)
    return torch.cat([causal, nodes], dim=1), None


def _flat_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """[1, N, A, E] attention of a flat row, [1, A, N, E], in the rectangle [B, A, T, E] that the mask describes."""
    rows, _, _, total = mask.shape
    place = torch.nonzero_static(mask[:, 0, 0].reshape(-1), size=query.shape[2])[:, 0]

    def unfold(flat: Tensor) -> Tensor:
        heads, size = flat.shape[1], flat.shape[3]
        spread = flat.new_zeros(rows * total, heads, size).index_copy(0, place, flat[0].transpose(0, 1))
        return spread.view(rows, total, heads, size).transpose(1, 2)

    nodes = mask[:, :, 1:] if mask.shape[2] > 1 else None
    result, _ = trie_sdpa_attention(module, unfold(query), unfold(key), unfold(value), nodes, **kwargs)
    return result.flatten(0, 1).index_select(0, place)[None], None


def register() -> None:
    """Tell transformers of `trie_sdpa`, so that models can be made with it; once more changes nothing."""
    AttentionInterface.register(TRIE_ATTENTION, trie_sdpa_attention)
    AttentionMaskInterface.register(TRIE_ATTENTION, sdpa_mask)


def attention_of(model: nn.Module) -> str:
    """The name of a model's attention implementation, whatever wraps the model."""
    return str(unwrapped(model).config._attn_implementation)


def trie_mask(model: nn.Module, batch: PackedBatch) -> Tensor | None:
    """The mask in the form that the model's attention wants: node rows only, all rows, or all rows additive."""
    attention = attention_of(model)
    mask = batch.node_mask
    rows, nodes, total = mask.shape
    if attention == TRIE_ATTENTION:
        return mask[:, None] if nodes else None
    causal = torch.ones(total - nodes, total, dtype=torch.bool, device=mask.device).tril()
    mask = torch.cat([causal.expand(rows, -1, -1), mask], dim=1)[:, None]
    if attention == "sdpa":
        return mask
    return additive(mask, next(model.parameters()).dtype)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as `eager` attention adds it to the scores; given the bool one, eager is silently wrong."""
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
