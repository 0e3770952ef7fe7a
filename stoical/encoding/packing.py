"""Packing: tokenized queries, their tries and their targets to one `PackedBatch`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stoical.common.arrays import Floats, Ints
from stoical.common.lazy import torch
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.tokenized import TokenizedQuery
from stoical.trie.mixed_prefix import fed_tokens, prefix_weights
from stoical.trie.node_weights import (
    UNLISTED,
    TargetSettings,
    best_ranks,
    node_targets,
    node_weights,
    num_points,
)
from stoical.trie.prefix_tree import DocIDTrie, DuplicateDocIDError, build_trie, first_docids

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedQuery:
    """One query's part of a batch in numpy; node indices are local to it.

    `kept` are the trie's nodes that stay, `inner` those of them that are fed.
    """

    query: TokenizedQuery
    trie: DocIDTrie
    weights: Floats
    targets: Floats
    ranks: Ints
    kept: Ints
    inner: Ints

    @property
    def size(self) -> tuple[int, int]:
        """Prompt columns and node columns that it takes."""
        return len(self.query.prompt_ids), len(self.inner)


@dataclass(frozen=True, slots=True)
class TrieTargetCollator:
    """Packs `TokenizedQuery`s into a `PackedBatch`, with the node weights that `targets` asks for.

    Weights and targets are those of the trie without negatives, to the bit, and 0 on nodes that lead to negatives only.
    With `prune`, trie nodes that carry no weight are left out: next-token prediction then costs one docID's tokens, not
    the whole trie's. Evaluation, and objectives that look at the whole trie, need `prune=False`. Whatever `pad_id` is,
    padding is never attended to and never a label. Raises `ValueError` for targets that make no sense.

        collate = TrieTargetCollator(TargetSettings(item="fractional", alpha=2.0))
        loader = DataLoader(EncodedDataset(rows, encoder), batch_size=8, shuffle=True, collate_fn=collate)
    """

    targets: TargetSettings = field(default_factory=TargetSettings)
    pad_id: int = 0
    prune: bool = True

    def __post_init__(self) -> None:
        self.targets.check()

    def __call__(self, queries: Sequence[TokenizedQuery]) -> dict[str, PackedBatch]:
        """Pack; the dict is what `transformers.Trainer` expects of a collator.

        Raises `ValueError` naming the query and both docIDs where two docIDs have the same token ids.
        """
        return {"batch": self.assemble([self.pack(query) for query in queries])}

    def assemble(self, packed: Sequence[PackedQuery]) -> PackedBatch:
        """One batch of queries that `pack` has made ready."""
        return _assemble(packed, self.targets, self.pad_id)

    def pack(self, query: TokenizedQuery) -> PackedQuery:
        """A query's part of a batch. Raises `ValueError` where two docIDs have the same token ids."""
        try:
            trie = build_trie(query.docid_ids)
        except DuplicateDocIDError as error:
            raise ValueError(
                f"query {query.query_id!r}: docIDs {query.docids[error.first]!r} and {query.docids[error.second]!r} "
                "have the same token ids, so the model cannot tell them apart; rename one of them"
            ) from error
        listed, place = trie, np.arange(trie.num_nodes)
        if query.num_negatives:
            listed, place = first_docids(trie, query.num_listed)
        ranks, counts = np.asarray(query.ranks[: query.num_listed]), doc_counts(query)
        targets = node_targets(listed, ranks, self.targets, counts)
        weights = _spread(self._weights(query, listed, ranks, targets, counts), place, trie.num_nodes)
        if counts is None:
            trained = weights
        else:  # what a weight of 0 leaves out of the loss stays in the batch
            trained = _spread(self._weights(query, listed, ranks, targets, None), place, trie.num_nodes)
        kept = self._kept(trie, trained) if self.prune else np.arange(1, trie.num_nodes)
        kept = np.concatenate([[0], kept])
        return PackedQuery(
            query=query,
            trie=trie,
            weights=query.weight * weights,
            targets=_spread(targets, place, trie.num_nodes),
            ranks=_spread(best_ranks(listed, ranks), place, trie.num_nodes, rest=UNLISTED),
            kept=kept,
            inner=_distinct(trie.parent[kept]),
        )

    def _weights(
        self, query: TokenizedQuery, trie: DocIDTrie, ranks: Ints, targets: Floats, counts: Floats | None
    ) -> Floats:
        weights = node_weights(trie, ranks, self.targets, counts)
        if query.mixed is not None:
            weights = prefix_weights(trie, ranks, targets, query.mixed)
        uncounted = np.asarray(query.counted[: query.num_listed]) < (trie.path >= 0).sum(axis=1)
        weights[trie.leaf[uncounted]] = 0.0
        return weights

    @staticmethod
    def _kept(trie: DocIDTrie, weights: Floats) -> Ints:
        """The nodes with weight, and on a mixed prefix those without that lead to them.

        Several in a row where docIDs end, with terminators that do not count, along the way.
        """
        wanted = weights > 0
        while not wanted[above := trie.parent[wanted]].all():
            wanted[above] = True
        return 1 + np.flatnonzero(wanted[1:])


def _distinct(ascending: Ints) -> Ints:
    """The numbers of an ascending array, each once, the first left out."""
    return ascending[1:][ascending[1:] > ascending[:-1]]


def _int64(ids: Sequence[int]) -> Ints:
    """A long list of numbers as an array, in half of numpy's own time."""
    return np.frombuffer(struct.pack(f"{len(ids)}q", *ids), dtype=np.int64)


def doc_counts(query: TokenizedQuery) -> Floats | None:
    """[D] the weights of the docIDs that are not negatives; None where all are 1."""
    return np.asarray(query.doc_weights, dtype=np.float64) if len(query.doc_weights) else None


def _points(query: TokenizedQuery, targets: TargetSettings) -> float:
    """Eq. 11's points of a query, each counted by the weights of query and docID."""
    return query.weight * num_points(np.asarray(query.ranks[: query.num_listed]), targets, doc_counts(query))


def _spread(values: npt.NDArray[Any], place: Ints, size: int, rest: int = 0) -> npt.NDArray[Any]:
    """[size] `values` put into their places, and `rest` everywhere else."""
    spread = np.full(size, rest, dtype=values.dtype)
    spread[place] = values
    return spread


def _assemble(packed: Sequence[PackedQuery], targets: TargetSettings, pad_id: int) -> PackedBatch:
    prompt_lengths = np.array([len(part.query.prompt_ids) for part in packed])
    width = int(prompt_lengths.max())
    inner_width = max(len(part.inner) for part in packed)
    rows, total = len(packed), width + inner_width

    input_ids = np.full((rows, total), pad_id, dtype=np.int64)
    position_ids = np.zeros((rows, total), dtype=np.int64)  # at padding, too, a model must have the position
    position_ids[:, :width] = np.arange(width)
    node_up = np.tile(np.arange(inner_width), (rows, 1))
    nodes: list[dict[str, npt.NDArray[Any]]] = []
    docs: list[dict[str, npt.NDArray[Any]]] = []
    offset = 0
    for row, part in enumerate(packed):
        query, trie, inner = part.query, part.trie, part.inner
        length, columns = prompt_lengths[row], width + np.arange(len(inner))
        input_ids[row, :length] = _int64(query.prompt_ids)
        input_ids[row, columns] = fed_tokens(trie, inner, query.mixed)
        position_ids[row, columns] = length + trie.depth[inner] - 1
        up = trie.parent[inner]
        node_up[row, : len(inner)] = np.where(up > 0, np.searchsorted(inner, up), np.arange(len(inner)))
        nodes.append(_node_fields(part, row, offset, width))
        docs.append(_doc_fields(part, row, offset))
        offset += len(part.kept)
    return PackedBatch(
        query_ids=tuple(part.query.query_id for part in packed),
        prompt_width=width,
        num_tokens=int(prompt_lengths.sum()) + sum(len(part.inner) for part in packed),
        num_points=sum(_points(part.query, targets) for part in packed),
        num_dropped=sum(part.query.num_dropped for part in packed),
        num_pruned=sum(len(part.trie.path) for part in packed) - sum(len(each["doc_rank"]) for each in docs),
        filler=all(part.query.filler for part in packed),
        levels=max(int(part.trie.depth[part.inner].max(initial=1)) for part in packed),
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        prompt_lengths=torch.from_numpy(prompt_lengths),
        node_counts=torch.tensor([len(part.inner) for part in packed]),
        node_up=torch.from_numpy(node_up),
        query_weight=torch.tensor([part.query.weight for part in packed], dtype=torch.float32),
        **_concatenate(nodes),
        **_concatenate(docs),
    )


def _node_fields(part: PackedQuery, row: int, offset: int, width: int) -> dict[str, npt.NDArray[Any]]:
    trie, kept = part.trie, part.kept
    parent = trie.parent[kept]
    return {
        "node_row": np.full(len(kept), row),
        "node_col": np.where(parent == 0, len(part.query.prompt_ids) - 1, width + np.searchsorted(part.inner, parent)),
        "node_token": trie.token[kept],
        "node_parent": offset + np.searchsorted(kept, parent),
        "node_depth": trie.depth[kept],
        "node_rank": part.ranks[kept],
        "node_weights": part.weights[kept].astype(np.float32),
        "node_target": part.targets[kept].astype(np.float32),
    }


def _doc_fields(part: PackedQuery, row: int, offset: int) -> dict[str, npt.NDArray[Any]]:
    """The docIDs whose every counted node is kept: all of them, unless the trie was pruned."""
    query, path, kept = part.query, part.trie.path, part.kept
    counted = np.where(np.arange(path.shape[1]) < np.asarray(query.counted)[:, None], path, -1)
    place = np.full(part.trie.num_nodes + 1, -2)  # -2: pruned away
    place[kept] = offset + np.arange(len(kept))
    place[-1] = -1  # what the -1 padding of a path picks
    local = place[counted]
    whole = (local != -2).all(axis=1)
    negative = np.arange(len(path)) >= len(path) - query.num_negatives
    return {
        "doc_path": local[whole],
        "doc_query": np.full(int(whole.sum()), row),
        "doc_rank": np.asarray(query.ranks)[whole],
        "doc_negative": negative[whole],
        "doc_grade": _per_doc([np.nan if grade is None else grade for grade in query.grades], np.nan, len(path))[whole],
        "doc_weight": _per_doc(query.doc_weights, 1.0, len(path))[whole],
        "doc_teacher": _per_doc(query.teacher_scores, np.nan, len(path))[whole],
    }


def _per_doc(values: Sequence[float], rest: float, count: int) -> npt.NDArray[np.float32]:
    """[count] the values of the first docIDs, and `rest` of the others."""
    filled = np.full(count, rest, dtype=np.float32)
    filled[: len(values)] = values
    return filled


def _concatenate(parts: Sequence[dict[str, npt.NDArray[Any]]]) -> dict[str, Tensor]:
    """Concatenate the queries' arrays field by field; docID paths are padded with -1 to the longest."""
    longest = max((part["doc_path"].shape[1] for part in parts if "doc_path" in part), default=0)
    joined = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if name == "doc_path":
            arrays = [_widened(array, longest) for array in arrays]
        joined[name] = torch.from_numpy(np.concatenate(arrays))
    return joined


def _widened(paths: Ints, width: int) -> Ints:
    """What `np.pad` would make, at a tenth of its cost for arrays this small."""
    wide = np.full((len(paths), width), -1)
    wide[:, : paths.shape[1]] = paths
    return wide
