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

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.attention import attention_of, register, trie_mask
from stoical.models.flat_row import FlatRow, is_flat, noise_by_query
from stoical.models.layouts import Layout
from stoical.models.mixtures import Mixture, embedded
from stoical.models.prompt_cache import model_inputs, nodes_pass, prompt_pass, virtual_tokens
from stoical.models.reading import Keep, Read, reading

register()


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """logprobs [M] float32, nats: log p(node | its prefix, prompt), 0 at roots.

    `logits[row, slot]`, over the vocabulary, and `hidden[row, slot]`, if kept, are what the model has at a node's
    parent: row and slot are [M], logits [R, S, V] in the model's precision, hidden [R, S, H]. The R rows are those that
    the model ran: one flat row, a query each, or, in the `pointwise` layout, a docID each. `best` [R, S]: the likeliest
    tokens, if they were kept without the logits.
    """

    logprobs: Tensor
    logits: Tensor | None
    row: Tensor
    slot: Tensor
    hidden: Tensor | None = None
    best: Tensor | None = None

    def logits_at(self, nodes: Tensor | list[int]) -> Tensor:
        """[N, V] the logits of which `nodes` [N] are one each: those at their parents.

        Raises `ValueError` where the pass kept none.
        """
        return self._kept(self.logits)[self.row[nodes], self.slot[nodes]]

    @property
    def likeliest(self) -> Tensor:
        """[M] the likeliest token of the whole vocabulary in each node's place. Raises `ValueError` if not kept."""
        best = self._kept(self.logits).argmax(dim=-1) if self.best is None else self.best
        return best[self.row, self.slot]

    @staticmethod
    def _kept(values: Tensor | None) -> Tensor:
        if values is None:
            raise ValueError("this forward pass kept no logits: ask for keep='logits', in an objective by needs_logits")
        return values


def node_logprobs(
    model: nn.Module,
    batch: PackedBatch,
    layout: Layout = "sequence",
    hidden: bool = False,
    mixture: Mixture | None = None,
    keep: Keep = "logprobs",
) -> NodeOutput:
    """Run `model` once over the batch and read the log-probability of every trie node, differentiably.

        batch = TrieTargetCollator(prune=False)(queries)["batch"].to(model.device)
        logprobs = node_logprobs(model, batch).logprobs

    The model is called as `model(...)`, so that DDP, FSDP and peft wrappers see every forward (`cache` calls it twice).
    Logits are made at the S read-out slots only, then reduced in float32. `mixture`: fed in places of node tokens.
    keep: log-probabilities alone, or with the `likeliest` tokens of the vocabulary, or with all its `logits`. Unless
    these are kept, a large vocabulary's are made a chunk at a time wherever the head is a plain linear layer, which
    takes a fraction of the memory.
    """
    if mixture is not None and (layout == "pointwise" or virtual_tokens(model)):
        what = "layout=pointwise does" if layout == "pointwise" else "models with a soft prompt do"
        raise ValueError(f"{what} not take mixtures of tokens (mitigations.soft_sampling) as input")
    if layout != "cache" and virtual_tokens(model):
        raise ValueError(f"layout={layout} does not know the columns of a soft prompt; use layout=cache")
    if layout == "pointwise":
        return _pointwise(model, batch, keep)
    mixed = None if mixture is None else embedded(model, batch.input_ids, mixture)
    if layout == "sequence" and is_flat(attention_of(model), len(batch.input_ids)):
        return _flat(model, batch, hidden, mixed, keep)
    return (_cached if layout == "cache" else _one_sequence)(model, batch, hidden, mixed, keep)


def _flat(model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None, keep: Keep) -> NodeOutput:
    row = FlatRow.of(batch)
    first = torch.zeros_like(row.slot)
    with reading(model, first, row.slot, batch.node_token, keep) as reader, noise_by_query(model, row.lengths):
        output = model(
            **model_inputs(row.pick(batch.input_ids), None if embeddings is None else row.pick(embeddings)),
            position_ids=row.pick(batch.position_ids),
            attention_mask=row.mask,
            logits_to_keep=row.read,
            use_cache=False,
            output_hidden_states=hidden,
        )
    states = output.hidden_states[-1][:, row.read] if hidden else None
    return _node_output(reader.read(output.logits), first, row.slot, states)


def _node_output(read: Read, row: Tensor, slot: Tensor, states: Tensor | None) -> NodeOutput:
    return NodeOutput(read.logprobs, read.logits, row, slot, states, read.likeliest)


def _one_sequence(
    model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None, keep: Keep
) -> NodeOutput:
    columns, slot = _slot_columns(batch), _slots(batch)
    with reading(model, batch.node_row, slot, batch.node_token, keep) as reader:
        output = model(
            **model_inputs(batch.input_ids, embeddings),
            position_ids=batch.position_ids,
            attention_mask=trie_mask(model, batch),
            logits_to_keep=columns,
            use_cache=False,
            output_hidden_states=hidden,
        )
    states = output.hidden_states[-1].take_along_dim(columns[..., None], dim=1) if hidden else None
    return _node_output(reader.read(output.logits), batch.node_row, slot, states)


def _slots(batch: PackedBatch) -> Tensor:
    """[M] the read-out slot of each node's parent."""
    return (batch.node_col - batch.prompt_width + 1).clamp(min=0)


def _slot_columns(batch: PackedBatch) -> Tensor:
    """[B, S] the column of `input_ids` behind every read-out slot."""
    rows, total = batch.input_ids.shape
    nodes = torch.arange(batch.prompt_width, total, device=batch.input_ids.device).expand(rows, -1)
    return torch.cat([batch.prompt_lengths[:, None] - 1, nodes], dim=1)


def _cached(model: nn.Module, batch: PackedBatch, hidden: bool, embeddings: Tensor | None, keep: Keep) -> NodeOutput:
    row, slot, token = batch.node_row, _slots(batch), batch.node_token
    width = batch.prompt_width
    last = batch.prompt_lengths[:, None] - 1
    with reading(model, row, torch.zeros_like(slot), token, keep) as reader:
        cache, logits, states = prompt_pass(model, batch.input_ids[:, :width], last, hidden)
    read = reader.read(logits)
    if batch.node_up.shape[1]:
        columns = batch.input_ids[:, width:], batch.position_ids[:, width:]
        nodes = None if embeddings is None else embeddings[:, width:]
        with reading(model, row, (slot - 1).clamp(min=0), token, keep) as reader:
            logits, node_states = nodes_pass(model, cache, *columns, batch.node_mask, hidden, nodes)
        read = _after_one_another(read, reader.read(logits), slot == 0)
        if states is not None and node_states is not None:
            states = torch.cat([states, node_states], dim=1)
    return _node_output(read, row, slot, states)


def _after_one_another(prompt: Read, nodes: Read, at_prompt: Tensor) -> Read:
    """What two passes were read for: the prompt's for the nodes `at_prompt` [M], and the slots of both in a row."""

    def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else torch.cat([one, other], dim=1)

    logprobs = torch.where(at_prompt, prompt.logprobs, nodes.logprobs)
    return Read(logprobs, both(prompt.logits, nodes.logits), both(prompt.likeliest, nodes.likeliest))


def _pointwise(model: nn.Module, batch: PackedBatch, keep: Keep) -> NodeOutput:
    """The same log-probabilities, one row for every root-to-leaf path: prompt, then the path's tokens.

    Each node is read in the first row that passes through it, so gradients are those of the packed layouts.
    """
    parent, row_of = batch.node_parent.tolist(), batch.node_row.tolist()
    lengths = batch.prompt_lengths.tolist()
    leaves = sorted(set(range(len(parent))) - set(parent))
    paths = [path_to(leaf, parent) for leaf in leaves]
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
    columns = (first_slot[:, None] + torch.arange(longest, device=input_ids.device)).clamp(max=width - 1)
    read = torch.tensor([slots.get(node, (0, 0)) for node in range(len(parent))], device=input_ids.device)
    with reading(model, read[:, 0], read[:, 1], batch.node_token, keep) as reader:
        logits = model(input_ids=input_ids, logits_to_keep=columns, use_cache=False).logits
    return _node_output(reader.read(logits), read[:, 0], read[:, 1], None)


def path_to(node: int, parent: list[int]) -> list[int]:
    """The nodes from depth 1 down to `node`, by the `parent` [M] of each."""
    path: list[int] = []
    while parent[node] != node:
        path.append(node)
        node = parent[node]
    return path[::-1]
