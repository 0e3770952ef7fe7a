"""The packed sequence through FlexAttention: a variant for the GPU benchmark alone.

The library does without it: a kernel of PyTorch's that is compiled for the mask has to be measured faster first.
Dimension letters: B queries, P prompt columns, I node columns, T = P + I, S read-out slots, M trie nodes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from stoical.encoding.packing import PackedBatch
from stoical.models.forward import _slot_columns
from stoical.models.reading import read_nodes

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


def flex_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[M] what `stoical.forward.node_logprobs` gives (nats); `model` must have this file's attention."""
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=block_mask(batch),
        logits_to_keep=_slot_columns(batch),
        use_cache=False,
    ).logits
    slot = (batch.node_col - batch.prompt_width + 1).clamp(min=0)
    return read_nodes(logits, batch.node_row, slot, batch.node_token)
