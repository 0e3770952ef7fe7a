"""One forward pass over prompt and trie nodes gives the log-probability of every trie node.

Dimension letters: B queries, P prompt columns, I node columns, T = P + I, S = I + 1 read-out slots (slot 0 is the last
prompt token, slot 1 + i is node column i), M trie nodes, V vocabulary, H hidden size.

Three layouts compute the same log-probabilities:

- `sequence`: prompts and nodes at once, nodes attending to the prompt and to their ancestors. Where the attention is
  ours, all queries are one row of tokens without padding (`flat_row`), elsewhere a rectangle of a row a query;
- `cache`: the prompt first, its keys and values kept, then the nodes over them (gradients flow through the cache);
- `pointwise`: one row per docID and a plain causal mask, as the paper trains. The reference for the other two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stoical.encoding.packing import PackedBatch
from stoical.models.attention import attention_of, register, trie_mask
from stoical.models.flat_row import FlatRow, is_flat, noise_by_query
from stoical.models.layouts import Layout
from stoical.models.mixtures import Mixture, embedded
from stoical.models.prompt_cache import model_inputs, nodes_pass, prompt_pass, virtual_tokens

register()


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """logprobs [M] float32, nats: log p(node | its prefix, prompt), 0 at roots.

    `logits[row, slot]`, over the vocabulary, and `hidden[row, slot]`, if asked for, are what the model has at a node's
    parent: row and slot are [M], logits [R, S, V] in the model's precision, hidden [R, S, H]. The R rows are those that
    the model ran: one flat row, a query each, or, in the `pointwise` layout, a docID each.
    """

    logprobs: Tensor
    logits: Tensor
    row: Tensor
    slot: Tensor
    hidden: Tensor | None = None


def node_logprobs(
    model: nn.Module,
    batch: PackedBatch,
    layout: Layout = "sequence",
    hidden: bool = False,
    mixture: Mixture | None = None,
) -> NodeOutput:
    """Run `model` once over the batch and read the log-probability of every trie node, differentiably.

    The model is called as `model(...)`, so that DDP, FSDP and peft wrappers see every forward (`cache` calls it twice).
    Logits are made at the S read-out slots only, then reduced in float32. `mixture`: fed in places of node tokens.
    """
    if mixture is not None and (layout == "pointwise" or virtual_tokens(model)):
        what = "layout=pointwise does" if layout == "pointwise" else "models with a soft prompt do"
        raise ValueError(f"{what} not take mixtures of tokens (mitigations.soft_sampling) as input")
    if layout != "cache" and virtual_tokens(model):
        raise ValueError(f"layout={layout} does not know the columns of a soft prompt; use layout=cache")
    if layout == "pointwise":
        return _pointwise(model, batch)
    mixed = None if mixture is None else embedded(model, batch.input_ids, mixture)
    if layout == "sequence" and is_flat(attention_of(model), len(batch.input_ids)):
        return _flat(model, batch, hidden, mixed)
    logits, states = (_cached if layout == "cache" else _one_sequence)(model, batch, hidden, mixed)
    slot = (batch.node_col - batch.prompt_width + 1).clamp(min=0)
    logprobs = _read_nodes(logits, batch.node_row, slot, batch.node_token)
    return NodeOutput(logprobs, logits, batch.node_row, slot, states)


def _read_nodes(logits: Tensor, row: Tensor, slot: Tensor, token: Tensor) -> Tensor:
    """[M] log-softmax of `logits` [B, S, V] at (row, slot, token), in float32; 0 where the token is -1 (a root)."""
    normalizer = torch.logsumexp(logits.float(), dim=-1)
    picked = logits[row, slot, token.clamp(min=0)].float() - normalizer[row, slot]
    return torch.where(token >= 0, picked, 0.0)


def _flat(model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None) -> NodeOutput:
    row = FlatRow.of(batch)
    with noise_by_query(model, row.lengths):
        output = model(
            **model_inputs(row.pick(batch.input_ids), None if embeddings is None else row.pick(embeddings)),
            position_ids=row.pick(batch.position_ids),
            attention_mask=row.mask,
            logits_to_keep=row.read,
            use_cache=False,
            output_hidden_states=hidden,
        )
    first = torch.zeros_like(row.slot)
    logprobs = _read_nodes(output.logits, first, row.slot, batch.node_token)
    states = output.hidden_states[-1][:, row.read] if hidden else None
    return NodeOutput(logprobs, output.logits, first, row.slot, states)


def _one_sequence(
    model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    slots = _slot_columns(batch)
    output = model(
        **model_inputs(batch.input_ids, embeddings),
        position_ids=batch.position_ids,
        attention_mask=trie_mask(model, batch),
        logits_to_keep=slots,
        use_cache=False,
        output_hidden_states=hidden,
    )
    if not hidden:
        return output.logits, None
    return output.logits, output.hidden_states[-1].take_along_dim(slots[..., None], dim=1)


def _slot_columns(batch: PackedBatch) -> Tensor:
    """[B, S] the column of `input_ids` behind every read-out slot."""
    rows, total = batch.input_ids.shape
    nodes = torch.arange(batch.prompt_width, total, device=batch.input_ids.device).expand(rows, -1)
    return torch.cat([batch.prompt_lengths[:, None] - 1, nodes], dim=1)


def _cached(
    model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    width = batch.prompt_width
    last = batch.prompt_lengths[:, None] - 1
    cache, logits, states = prompt_pass(model, batch.input_ids[:, :width], last, hidden)
    if batch.node_up.shape[1]:
        columns = batch.input_ids[:, width:], batch.position_ids[:, width:]
        nodes = None if embeddings is None else embeddings[:, width:]
        node_logits, node_states = nodes_pass(model, cache, *columns, batch.node_mask, hidden, nodes)
        logits = torch.cat([logits, node_logits], dim=1)
        if states is not None and node_states is not None:
            states = torch.cat([states, node_states], dim=1)
    return logits, states


def _pointwise(model: nn.Module, batch: PackedBatch) -> NodeOutput:
    """The same log-probabilities, one row for every root-to-leaf path: prompt, then the path's tokens.

    Each node is read in the first row that passes through it, so gradients are those of the packed layouts.
    """
    parent, row_of = batch.node_parent.tolist(), batch.node_row.tolist()
    lengths = batch.prompt_lengths.tolist()
    leaves = sorted(set(range(len(parent))) - set(parent))
    paths = [_path(leaf, parent) for leaf in leaves]
    width = max(lengths[row_of[leaf]] + len(path) - 1 for leaf, path in zip(leaves, paths, strict=True))
    longest = max(len(path) for path in paths)

    input_ids = batch.input_ids.new_zeros(len(paths), width)
    first_slot = input_ids.new_empty(len(paths))
    slots: dict[int, tuple[int, int]] = {}  # node -> (row, step): where its log-probability is read
    for row, (leaf, path) in enumerate(zip(leaves, paths, strict=True)):
        length = lengths[row_of[leaf]]
        input_ids[row, :length] = batch.input_ids[row_of[leaf], :length]
        fed = batch.node_col[path[1:]]  # the columns of the nodes before each: a mixed prefix feeds other tokens there
        input_ids[row, length : length + len(path) - 1] = batch.input_ids[row_of[leaf], fed]
        first_slot[row] = length - 1
        for step, node in enumerate(path):
            slots.setdefault(node, (row, step))
    keep = (first_slot[:, None] + torch.arange(longest, device=input_ids.device)).clamp(max=width - 1)
    logits = model(input_ids=input_ids, logits_to_keep=keep, use_cache=False).logits
    read = torch.tensor([slots.get(node, (0, 0)) for node in range(len(parent))], device=input_ids.device)
    logprobs = _read_nodes(logits, read[:, 0], read[:, 1], batch.node_token)
    return NodeOutput(logprobs, logits, read[:, 0], read[:, 1])


def _path(node: int, parent: list[int]) -> list[int]:
    path = []
    while parent[node] != node:
        path.append(node)
        node = parent[node]
    return path[::-1]
