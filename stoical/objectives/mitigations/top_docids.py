"""Queries whose best rank several docIDs share, taken apart: a row for each of these, in which it alone is the top one.

Dimension letters: B queries, M trie nodes of the batch; R >= B rows and N >= M trie nodes of the batch taken apart.

The paper's loss on the top docID's path is a sum over the docIDs of rank 1. What replaces it follows one gold path a
row, so it runs on the batch taken apart, and is the paper's loss where it does nothing. Where no ranks tie, the batch
taken apart is the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stoical.common.lazy import torch
from stoical.decoding.walks import docid_ends, listed, top_docs
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.objective import StepContext

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Apart:
    """A batch taken apart.

    batch: its R rows, whose gold path (`walks.gold_child`) leads to the row's own top docID. Of the weights below the
    paths of several, each row has its share. origin [N]: the node of the whole batch that a node is a copy of. paths
    [M], float: how many of the top docIDs' paths lead through a node of the whole batch.
    """

    batch: PackedBatch
    origin: Tensor
    paths: Tensor

    def summed(self, values: Tensor) -> Tensor:
        """[M] `values` [N] summed over the copies of each node."""
        return values.new_zeros(len(self.paths)).index_add(0, self.origin, values)


def take_apart(batch: PackedBatch) -> Apart:
    """A row for every docID of its query's best rank. The batch holds the whole trie."""
    tops = top_docs(batch)
    query = batch.doc_query[tops]
    origin, row = _copies(batch.node_row, query)
    place = torch.arange(len(origin), device=origin.device)
    shift = place - origin  # from a node to its copy in this row
    on_path = _on_paths(batch, tops, origin, row, shift)
    paths = on_path.new_zeros(len(batch.node_row), dtype=batch.node_weights.dtype)
    paths = paths.index_add(0, origin, on_path.to(paths.dtype))
    if len(tops) == len(batch.query_ids):
        return Apart(batch, origin, paths)
    parent = batch.node_parent[origin] + shift
    shared = torch.where(on_path[parent], batch.node_weights[origin] / paths[origin][parent].clamp(min=1), 0.0)
    behind = listed(batch)[origin] & ~on_path  # where another row's top docID is: no rank is this row's best
    changed: dict[str, Any] = {
        "query_ids": tuple(batch.query_ids[place] for place in query.tolist()),
        "node_row": row,
        "node_parent": parent,
        "node_rank": batch.node_rank[origin] + behind.long(),
        "node_weights": shared,
    }
    for name in ("node_col", "node_token", "node_depth", "node_target"):
        changed[name] = getattr(batch, name)[origin]
    for name in ("input_ids", "position_ids", "prompt_lengths", "node_counts", "node_up"):
        changed[name] = getattr(batch, name)[query]
    return Apart(replace(batch, **changed | _documents(batch, query, shift, row)), origin, paths)


def context_apart(context: StepContext, apart: Apart) -> StepContext:
    """What an objective sees of the batch taken apart: the same forward pass, read where the copies stand."""
    if apart.batch is context.batch:
        return context
    output, origin = context.output, apart.origin
    read = {name: getattr(output, name)[origin] for name in ("logprobs", "row", "slot")}
    return replace(context, batch=apart.batch, output=replace(output, **read))


def _copies(group: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The places of `group` (ascending) that have each of the `wanted` values, one after another, and for which."""
    first, end = torch.searchsorted(group, wanted), torch.searchsorted(group, wanted, right=True)
    count = end - first
    row = torch.repeat_interleave(count)
    return torch.arange(len(row), device=row.device) + (end - count.cumsum(0))[row], row


def _on_paths(batch: PackedBatch, tops: Tensor, origin: Tensor, row: Tensor, shift: Tensor) -> Tensor:
    """[N] True at roots and at the nodes of the row's own top docID, a terminator that does not count among them."""
    start = torch.searchsorted(row, torch.arange(len(tops), device=row.device))
    path = torch.cat([batch.doc_path[tops], docid_ends(batch)[tops, None]], dim=1)
    places = (path + shift[start][:, None])[path >= 0]
    on_path = batch.node_token[origin] < 0
    on_path[places] = True
    return on_path


def _documents(batch: PackedBatch, query: Tensor, shift: Tensor, row: Tensor) -> dict[str, Tensor]:
    docs, doc_row = _copies(batch.doc_query, query)
    start = torch.searchsorted(row, doc_row)
    path = batch.doc_path[docs]
    return {
        "doc_path": torch.where(path >= 0, path + shift[start][:, None], -1),
        "doc_query": doc_row,
        "doc_rank": batch.doc_rank[docs],
        "doc_negative": batch.doc_negative[docs],
    }
