"""Beam search as a walk over the node log-probabilities of whole tries, for all queries of a batch at once.

Dimension letters: M trie nodes of the batch, N things in groups. `beam_search.beam_search` is the same search
with a model, a forward a depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.decoding.walks import has_children
from stoical.encoding.packed_batch import PackedBatch

if TYPE_CHECKING:
    from torch import Tensor


def rank_in_group(group: Tensor, *keys: Tensor) -> Tensor:
    """[N] the place, from 0, of N things in their `group` [N] (int64), by the first of `keys` [N], greatest first.

    Of equal ones the next key decides, and then which stands first.
    """
    *others, last = keys
    order = last.argsort(descending=True, stable=True)
    for key in reversed(others):
        order = order[key[order].argsort(descending=True, stable=True)]
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return places


def beam_on_nodes(
    batch: PackedBatch, totals: Tensor, num_beams: int, among: Tensor | None = None, first: Tensor | None = None
) -> Tensor:
    """[M] True at the beams of a search within each query's trie: at roots, and at the nodes that it expands.

    Of a query's inner nodes at one depth whose parents are beams, the `num_beams` with the largest `totals` [M] become
    beams. `totals`: log-probabilities (nats) summed from the root; `among` [M] bool: False at nodes to leave out. Ties
    go to the node of the greatest `first` [M] if that is given, then to the child of the better beam, then to the
    smaller token id. Leaves take no beam: the docIDs that the search finds are those whose last node has a beam as its
    parent.
    """
    beams = batch.node_token < 0
    candidates = has_children(batch) if among is None else has_children(batch) & among
    place = torch.zeros_like(batch.node_parent)
    for depth in range(1, int(batch.node_depth.max()) + 1):
        level = ((batch.node_depth == depth) & beams[batch.node_parent] & candidates).nonzero()[:, 0]
        keys = [totals, *([] if first is None else [first]), -place[batch.node_parent]]
        place[level] = rank_in_group(batch.node_row[level], *(key[level] for key in keys))
        beams[level] = place[level] < num_beams
    return beams
