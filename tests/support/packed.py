"""Queries packed into a batch, and where things stand in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.trie.node_weights import TargetSettings

BETA = TargetSettings(token="trie", beta=2.0)


def pack(
    queries: Iterable[TokenizedQuery], settings: TargetSettings = BETA, prune: bool = False, pad_id: int = 0
) -> PackedBatch:
    return TrieTargetCollator(settings, pad_id, prune)(queries)["batch"]


def prefix_of(batch: PackedBatch, node: int) -> tuple[int, ...]:
    """The tokens from the root down to a node, by parents."""
    tokens = []
    while batch.node_token[node] >= 0:
        tokens.append(int(batch.node_token[node]))
        node = int(batch.node_parent[node])
    return tuple(tokens[::-1])


def leaking(batch: PackedBatch) -> PackedBatch:
    """The batch with every node seeing all that stand before it, siblings too."""
    count = batch.node_up.shape[1]
    return replace(batch, node_up=(torch.arange(count) - 1).clamp(min=0).expand_as(batch.node_up), levels=count)


def leaf_of(batch: PackedBatch) -> Tensor:
    """The leaf of every docID, by [doc]; terminators count in these tests."""
    return batch.doc_path.gather(1, (batch.doc_path >= 0).sum(dim=1, keepdim=True) - 1)[:, 0]
