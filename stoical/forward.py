"""One forward pass over prompt and trie nodes: the only file that knows about attention masks.

Dimension letters: B queries, P prompt columns, I node columns, T = P + I, S = I + 1 read-out slots (slot 0 is the last
prompt token, slot 1 + i is node column i), M trie nodes, V vocabulary, H hidden size.

Three layouts compute the same log-probabilities:

- `sequence`: prompt and nodes in one sequence, nodes attending to the prompt and to their ancestors;
- `cache`: the prompt first, its keys and values kept, then the nodes over them (gradients flow through the cache);
- `pointwise`: one row per docID and a plain causal mask, as the paper trains. The reference for the other two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from stoical.embeddings import Mixture, embedded
from stoical.packing import PackedBatch

Layout = Literal["sequence", "cache", "pointwise"]

TRIE_ATTENTION = "trie_sdpa"


def trie_sdpa_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """SDPA that takes a mask for the last rows only, [B, 1, I, T]: the T - I rows before them are plain causal.

    The prompt's rows then run on the fast causal kernel and no [T, T] mask exists. Given a mask for every row, or none,
    it is transformers' own `sdpa`.
    """
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


AttentionInterface.register(TRIE_ATTENTION, trie_sdpa_attention)
AttentionMaskInterface.register(TRIE_ATTENTION, sdpa_mask)


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """logprobs [M] float32, nats: log p(node | its prefix, prompt), 0 at roots.

    `logits[row, slot]`, over the vocabulary, and `hidden[row, slot]`, if asked for, are what the model has at a node's
    parent: row and slot are [M], logits [B, S, V] in the model's precision, hidden [B, S, H]. In the `pointwise` layout
    rows are docIDs, not queries.
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
    if mixture is not None and (layout == "pointwise" or _virtual_tokens(model)):
        what = "layout=pointwise does" if layout == "pointwise" else "models with a soft prompt do"
        raise ValueError(f"{what} not take mixtures of tokens (mitigations.soft_sampling) as input")
    if layout != "cache" and _virtual_tokens(model):
        raise ValueError(f"layout={layout} does not know the columns of a soft prompt; use layout=cache")
    if layout == "pointwise":
        return _pointwise(model, batch)
    mixed = None if mixture is None else embedded(model, batch.input_ids, mixture)
    logits, states = (_cached if layout == "cache" else _one_sequence)(model, batch, hidden, mixed)
    slot = (batch.node_col - batch.prompt_width + 1).clamp(min=0)
    logprobs = _read_nodes(logits, batch.node_row, slot, batch.node_token)
    return NodeOutput(logprobs, logits, batch.node_row, slot, states)


def _read_nodes(logits: Tensor, row: Tensor, slot: Tensor, token: Tensor) -> Tensor:
    """[M] log-softmax of `logits` [B, S, V] at (row, slot, token), in float32; 0 where the token is -1 (a root)."""
    normalizer = torch.logsumexp(logits.float(), dim=-1)
    picked = logits[row, slot, token.clamp(min=0)].float() - normalizer[row, slot]
    return torch.where(token >= 0, picked, 0.0)


def _inputs(input_ids: Tensor, embeddings: Tensor | None) -> dict[str, Tensor]:
    """Tokens [B, T] as arguments of a model, or the embeddings [B, T, H] that take their place."""
    return {"input_ids": input_ids} if embeddings is None else {"inputs_embeds": embeddings}


def _one_sequence(
    model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    slots = _slot_columns(batch)
    output = model(
        **_inputs(batch.input_ids, embeddings),
        position_ids=batch.position_ids,
        attention_mask=_attention_mask(model, batch),
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


def _attention_mask(model: nn.Module, batch: PackedBatch) -> Tensor | None:
    """The mask in the form that the model's attention wants: node rows only, all rows, or all rows additive."""
    attention = extract_model_from_parallel(model).config._attn_implementation
    rows, nodes, total = batch.node_mask.shape
    if attention == TRIE_ATTENTION:
        return batch.node_mask[:, None] if nodes else None
    causal = torch.ones(total - nodes, total, dtype=torch.bool, device=batch.node_mask.device).tril()
    mask = torch.cat([causal.expand(rows, -1, -1), batch.node_mask], dim=1)[:, None]
    if attention == "sdpa":
        return mask
    dtype = next(model.parameters()).dtype  # eager adds the mask: with a bool one it is silently wrong
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def _cached(
    model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    width = batch.prompt_width
    last = batch.prompt_lengths[:, None] - 1
    cache, logits, states = _prompt_pass(model, batch.input_ids[:, :width], last, hidden)
    if batch.node_mask.shape[1]:
        columns = batch.input_ids[:, width:], batch.position_ids[:, width:]
        nodes = None if embeddings is None else embeddings[:, width:]
        node_logits, node_states = _nodes_pass(model, cache, *columns, batch.node_mask, hidden, nodes)
        logits = torch.cat([logits, node_logits], dim=1)
        if states is not None and node_states is not None:
            states = torch.cat([states, node_states], dim=1)
    return logits, states


def _prompt_pass(
    model: nn.Module, input_ids: Tensor, last: Tensor, hidden: bool = False
) -> tuple[DynamicCache, Tensor, Tensor | None]:
    """Run the prompts [B, P] alone: keys and values, and logits [B, 1, V] and states at the columns `last` [B, 1].

    The cache is told of no sliding window: it must keep every column, since a node's column is not its position.
    """
    cache, virtual = DynamicCache(), _virtual_tokens(model)
    output = model(
        input_ids=input_ids,
        past_key_values=cache,
        logits_to_keep=last + virtual,
        use_cache=True,
        output_hidden_states=hidden,
    )
    if cache.get_seq_length() != virtual + input_ids.shape[1]:
        raise ValueError(
            "layout=cache found no cache after the prompt: activation checkpointing drops it; "
            "set layout=sequence or training.activation_checkpointing=false"
        )
    states = output.hidden_states[-1].take_along_dim(last[..., None] + virtual, dim=1) if hidden else None
    return cache, output.logits, states


def _virtual_tokens(model: nn.Module) -> int:
    """How many tokens of a soft prompt peft puts before every prompt."""
    inner = extract_model_from_parallel(model)
    if isinstance(inner, PeftModel) and inner.active_peft_config.is_prompt_learning:
        return int(inner.active_peft_config.num_virtual_tokens)
    return 0


def _nodes_pass(
    model: nn.Module,
    cache: DynamicCache,
    input_ids: Tensor,
    position_ids: Tensor,
    mask: Tensor,
    hidden: bool = False,
    embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run node columns [B, I], or the embeddings [B, I, H] in their place, over the cache: logits [B, I, V] and states.

    `mask` [B, I, T] says which columns they see, of the cache and their own. Cached columns before those T are a soft
    prompt: seen by all, and not to be put there again, so the model below peft's wrapper runs.
    """
    virtual = cache.get_seq_length() + input_ids.shape[1] - mask.shape[2]
    mask = nn.functional.pad(mask, (virtual, 0), value=True)[:, None]
    inner = extract_model_from_parallel(model)
    if inner.config._attn_implementation == "eager":
        dtype = cache.layers[0].keys.dtype
        mask = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
    output = (inner.base_model if virtual else model)(
        **_inputs(input_ids, embeddings),
        position_ids=position_ids + virtual,
        past_key_values=cache,
        attention_mask=mask,
        use_cache=True,
        output_hidden_states=hidden,
    )
    return output.logits, output.hidden_states[-1] if hidden else None


class PromptCache:
    """The keys and values of prompts, kept once, and of the trie nodes that were fed after them, level by level.

    Dimension letters: F nodes fed so far to a prompt, K nodes of one level. Nodes are columns of their prompt's row,
    over one cache of P + F columns: however many there are, the prompt's columns are there once, and none are
    reordered. `logits` [B, V] are those after the prompts. Gradients flow if they are on.
    """

    def __init__(self, model: nn.Module, input_ids: Tensor, lengths: Tensor) -> None:
        """Run the prompts `input_ids` [B, P], right-padded from their `lengths` [B] on."""
        self._model, self._next_position = model, lengths[:, None]
        self._cache, logits, _ = _prompt_pass(model, input_ids, lengths[:, None] - 1)
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        self._sees = (columns < lengths[:, None])[:, None]  # [B, K, P + F] of the last level
        self.logits = logits[:, 0]

    def feed(self, token: Tensor, parent: Tensor) -> Tensor:
        """[B, K, V] logits after K nodes of the next level, each a child of place `parent` [B, K] of the last level.

        The first level's parent is the prompt: place 0.
        """
        itself = torch.eye(token.shape[1], dtype=torch.bool, device=token.device).expand(len(token), -1, -1)
        self._sees = torch.cat([self._sees.take_along_dim(parent[..., None], dim=1), itself], dim=2)
        position = self._next_position.expand_as(token)
        logits, _ = _nodes_pass(self._model, self._cache, token, position, self._sees)
        self._next_position = self._next_position + 1
        return logits


def packed_difference(model: nn.Module, batch: PackedBatch, layout: Layout, max_rows: int = 4) -> float:
    """Largest absolute difference, in nats, of `layout` from the pointwise reference on the batch's first docIDs."""
    with torch.no_grad():
        packed = node_logprobs(model, batch, layout).logprobs
        pointwise = _pointwise(model, batch, max_rows).logprobs
    seen = ~pointwise.isnan()
    return float((packed - pointwise)[seen].abs().max())


def _pointwise(model: nn.Module, batch: PackedBatch, max_rows: int | None = None) -> NodeOutput:
    """The same log-probabilities, one row for every root-to-leaf path: prompt, then the path's tokens.

    Each node is read in the first row that passes through it, so gradients are those of the packed layouts. With
    `max_rows`, only that many paths are run, and the nodes on none of them are NaN.
    """
    parent, token, row_of = (t.tolist() for t in (batch.node_parent, batch.node_token, batch.node_row))
    lengths = batch.prompt_lengths.tolist()
    leaves = sorted(set(range(len(parent))) - set(parent))[:max_rows]
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
    unseen = [node for node in range(len(parent)) if node not in slots and token[node] >= 0]
    logprobs = logprobs.index_fill(0, read.new_tensor(unseen), float("nan"))
    return NodeOutput(logprobs, logits, read[:, 0], read[:, 1])


def _path(node: int, parent: list[int]) -> list[int]:
    path = []
    while parent[node] != node:
        path.append(node)
        node = parent[node]
    return path[::-1]
