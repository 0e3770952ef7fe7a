"""A flat row whose prompts run through PyTorch's kernel for rows of several lengths: for the GPU benchmark alone.

The library unfolds a flat row to the padded rectangle for its attention. Here the prompts stay as they are, side by
side, and the nodes alone are padded; a kernel that needs CUDA has to be measured faster first.
Dimension letters: B queries, P prompt columns, I node columns, T = P + I, N tokens, A heads of size E, M trie nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.flat_row import FlatRow
from stoical.models.reading import reading

VARLEN_ATTENTION = "benchmark_varlen"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where tokens of a flat row stand, worked out once a pass, so that no layer waits for the GPU.

    place [N]: in the B * T places of the rectangle. prompts, nodes: which of the N are which. in_nodes: the nodes'
    places in the B * I of node columns. starts [B + 1] int32: where each prompt starts among the prompts' tokens.
    longest: tokens of the longest prompt. mask [B, 1, I, T]: what nodes attend to.
    """

    place: Tensor
    prompts: Tensor
    nodes: Tensor
    in_nodes: Tensor
    starts: Tensor
    longest: int
    mask: Tensor

    @classmethod
    def of(cls, batch: PackedBatch, row: FlatRow) -> Plan:
        """The plan of a packed batch."""
        width, total = batch.prompt_width, batch.input_ids.shape[1]
        query, column = row.place // total, row.place % total
        nodes = (column >= width).nonzero()[:, 0]
        return cls(
            place=row.place,
            prompts=(column < width).nonzero()[:, 0],
            nodes=nodes,
            in_nodes=query[nodes] * (total - width) + column[nodes] - width,
            starts=pad(batch.prompt_lengths.cumsum(0), (1, 0)).int(),
            longest=int(batch.prompt_lengths.max()),
            mask=batch.node_mask[:, None],
        )


_plan: list[Plan] = []  # of the pass that runs; transformers hands masks on to attention, and nothing else


def causal(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scaling: float | None) -> Tensor:
    """[N, A, E] causal attention within each prompt; a loop over the prompts where there is no CUDA."""
    if query.is_cuda:
        settings: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0), "enable_gqa": True}
        longest = plan.longest
        found = varlen_attn(query, key, value, plan.starts, plan.starts, longest, longest, **settings)
        assert isinstance(found, Tensor)
        return found
    lengths = plan.starts.diff().tolist()
    rows = zip(*(each.transpose(0, 1).split(lengths, dim=1) for each in (query, key, value)), strict=True)
    alone = [scaled_dot_product_attention(*row, is_causal=True, scale=scaling, enable_gqa=True) for row in rows]
    return torch.cat(alone, dim=1).transpose(0, 1)


def varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for every layer."""
    plan = _plan[-1]
    rows, _, columns, total = plan.mask.shape
    flat = [each[0].transpose(0, 1) for each in (query, key, value)]

    def spread(values: Tensor, place: Tensor, count: int) -> Tensor:
        rectangle = values.new_zeros(rows * count, *values.shape[1:]).index_copy(0, place, values)
        return rectangle.view(rows, count, *values.shape[1:]).transpose(1, 2)

    of_prompts = causal(*(each[plan.prompts] for each in flat), plan, scaling)
    asking = spread(flat[0][plan.nodes], plan.in_nodes, columns)
    asked = [spread(each, plan.place, total) for each in flat[1:]]
    of_nodes, _ = sdpa_attention_forward(module, asking, *asked, plan.mask, scaling=scaling, **kwargs)
    result = torch.empty_like(flat[0]).index_copy(0, plan.prompts, of_prompts)
    return result.index_copy(0, plan.nodes, of_nodes.flatten(0, 1)[plan.in_nodes])[None], None


AttentionInterface.register(VARLEN_ATTENTION, varlen)


def varlen_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[M] what `node_logprobs` gives (nats); `model` must have this file's attention."""
    row = FlatRow.of(batch)
    _plan[:] = [Plan.of(batch, row)]
    with reading(model, torch.zeros_like(row.slot), row.slot, batch.node_token, "logprobs") as reader:
        output = model(
            input_ids=row.pick(batch.input_ids),
            position_ids=row.pick(batch.position_ids),
            attention_mask=row.mask,
            logits_to_keep=row.read,
            use_cache=False,
        )
    return reader.read(output.logits).logprobs
