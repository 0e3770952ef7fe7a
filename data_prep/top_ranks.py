"""The paper's lists: for each query the titles at ranks 1, 100, ..., 10000 by inner product (section 5.1), exactly.

Dimension letters: Q queries, N titles, E embedding dimensions, R ranks, B queries of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stoical.common.arrays import Bools, Floats, Ints
from stoical.common.lazy import torch
from stoical.common.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

SCORE_BYTES = 2**29
SELECT_BYTES = 64  # a title that may be among the wanted: its row, place, score and orders, and those of `topk`
TITLE_ROWS = 16384


def rank_rule(start: int, step: int, end: int) -> list[int]:
    """The ranks to take: `start`, then the multiples of `step` above it up to `end`. Ranks start at 1.

    Raises ValueError where that is not 1 <= start <= end and step >= 1.
    """
    if not (1 <= start <= end and step >= 1):
        raise ValueError(f"rank_start={start} rank_step={step} rank_end={end}: ranks start at 1 and end at rank_end")
    return [start, *(rank for rank in range(step, end + 1, step) if rank > start)]


def check_enough(titles: int, ranks: Sequence[int]) -> None:
    """Raise ValueError where there are fewer titles than the last rank."""
    if titles < ranks[-1]:
        raise ValueError(
            f"rank {ranks[-1]:,} needs at least {ranks[-1]:,} titles with a docID, but there are {titles:,}: "
            f"give rank_end={titles} or less"
        )


def top_ranks(queries: Floats, titles: Floats, ranks: Sequence[int], usable: Bools, device: str = "cpu") -> Ints:
    """[Q, R] the rows of the titles that have these ranks by inner product with each query; of equals the first goes
    first. Titles that are not `usable` [N] are passed over.

    `queries` [Q, E] and `titles` [N, E] have one dtype, which the inner products keep. `titles` may be a memory map: it
    is read by blocks of TITLE_ROWS, once for each block of queries. The peak beside them is SCORE_BYTES for the scores
    [B, N] and what selects from them, with B chosen for it, and a quarter of that again for the block's product: 0.8 GB
    at N = 1.8M, where titles of 768 float32 are 5.5 GB on disk or in memory. Raises ValueError for too few titles.
    """
    check_enough(int(usable.sum()), ranks)
    block = max(1, SCORE_BYTES // (titles.itemsize * len(titles) + SELECT_BYTES * ranks[-1]))
    passed_over = torch.from_numpy(~usable).to(device)
    places = torch.as_tensor(ranks, device=device) - 1
    found = np.empty((len(queries), len(ranks)), dtype=np.int64)
    for start in progress(range(0, len(queries), block), "ranking titles, blocks of queries"):
        some = torch.from_numpy(np.array(queries[start : start + block])).to(device)
        found[start : start + block] = _rows_at(_scores(some, titles, passed_over), places).cpu().numpy()
    return found


def _scores(queries: Tensor, titles: Floats, passed_over: Tensor) -> Tensor:
    """[B, N] inner products, made by blocks of titles; -inf where `passed_over` [N]."""
    scores = queries.new_empty(len(queries), len(titles))
    rows = min(TITLE_ROWS, max(1, len(titles) // 4))
    for start in range(0, len(titles), rows):
        block = torch.from_numpy(np.ascontiguousarray(titles[start : start + rows]))
        scores[:, start : start + rows] = queries @ block.to(queries.device).T
    scores[:, passed_over] = -torch.inf
    return scores


def _rows_at(scores: Tensor, places: Tensor) -> Tensor:
    """[B, R] where in each row of `scores` [B, N] the ones at these places, from 0, of a stable descending sort stand.

    Only scores of at least the last wanted one are sorted: `topk` alone does not say which of equals it took.
    """
    least = scores.topk(int(places[-1]) + 1, sorted=False).values.amin(dim=1, keepdim=True)
    query, title = (scores >= least).nonzero(as_tuple=True)
    order = scores[query, title].sort(descending=True, stable=True).indices
    order = order[query[order].sort(stable=True).indices]
    counts = torch.bincount(query, minlength=len(scores))
    return title[order[(counts.cumsum(0) - counts)[:, None] + places]]
