"""Packed batches through FlexAttention, as a rectangle and as a flat row: variants for the GPU benchmark alone.

The library does without it: a kernel of PyTorch's that is compiled for the mask has to be measured faster first.
Dimension letters: B queries, P prompt columns, I node columns, T = P + I, N tokens, M trie nodes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.flat_row import FlatRow
from stoical.models.forward import _slot_columns
from stoical.models.reading import reading

FLEX_ATTENTION = "benchmark_flex"


@functools.cache
def compiled() -> Any:
    """The fused kernel, compiled at its first use."""
    return torch.compile(flex_attention)


def flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for every layer. Compiled on CUDA; on the CPU unfused, and without a backward pass."""
    attend = compiled() if query.is_cuda else flex_attention
    result = attend(query, key, value, block_mask=attention_mask, enable_gqa=True, scale=scaling)
    return result.transpose(1, 2).contiguous(), None


AttentionInterface.register(FLEX_ATTENTION, flex)


def block_mask(batch: PackedBatch) -> BlockMask:
    """The packed sequence's mask [B, T, T]: causal rows for the prompt, then those of the nodes."""
    width, mask = batch.prompt_width, batch.node_mask
    rows, _, total = mask.shape

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        node = (query - width).clamp(min=0)
        return torch.where(query < width, query >= key, mask[row, node, key])

    return create_block_mask(allowed, rows, None, total, total, device=str(mask.device))


def flat_block_mask(batch: PackedBatch, row: FlatRow) -> BlockMask:
    """The same of a flat row, [N, N]: a token sees what it sees in its rectangle, and nothing of other queries."""
    width, mask, total = batch.prompt_width, batch.node_mask, batch.input_ids.shape[1]
    owner, column = row.place // total, row.place % total

    def allowed(_: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        node = (column[query] - width).clamp(min=0)
        own = torch.where(column[query] < width, column[query] >= column[key], mask[owner[query], node, column[key]])
        return own & (owner[query] == owner[key])

    return create_block_mask(allowed, None, None, len(column), len(column), device=str(mask.device))


def flex_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[M] what `node_logprobs` gives (nats), by a rectangle; `model` must have this file's attention."""
    slot = (batch.node_col - batch.prompt_width + 1).clamp(min=0)
    with reading(model, batch.node_row, slot, batch.node_token, "logprobs") as reader:
        output = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=block_mask(batch),
            logits_to_keep=_slot_columns(batch),
            use_cache=False,
        )
    return reader.read(output.logits).logprobs


def flat_flex_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[M] the same by a flat row."""
    row = FlatRow.of(batch)
    with reading(model, torch.zeros_like(row.slot), row.slot, batch.node_token, "logprobs") as reader:
        output = model(
            input_ids=row.pick(batch.input_ids),
            position_ids=row.pick(batch.position_ids),
            attention_mask=flat_block_mask(batch, row),
            logits_to_keep=row.read,
            use_cache=False,
        )
    return reader.read(output.logits).logprobs
