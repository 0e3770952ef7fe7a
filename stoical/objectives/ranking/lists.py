"""The docIDs of a batch as padded lists, which is what ranking losses compare.

Dimension letters: B queries, N docIDs of the longest list, D docIDs of the batch. Scores are in nats.

Negatives are documents of the list that nobody ranked: they share one rank below all others, and their gain is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from stoical.common.lazy import torch
from stoical.encoding.packed_batch import PackedBatch

if TYPE_CHECKING:
    from torch import Tensor

Gain = Literal["log", "linear", "exponential"]


@dataclass(frozen=True, slots=True)
class Lists:
    """The docIDs of B queries, [B, N] each; where a list is padded, `real` is False and the numbers are 0.

    scores: s(d) / temperature, differentiable. reference: the same of the reference model, where the loss needs one.
    listed: not a negative. rank: from 1; relevance: the user's grade where the list has any (0 for none, and below 0),
    else n_q + 1 - rank, of n_q listed documents, and 0 of negatives; gain: what the loss's nDCG pays for it. weight: of
    the documents in the data, 1 of negatives. teacher: another model's scores, NaN where there is none. seeds: of each
    query's random numbers; samples: how many orders of a list to draw.
    """

    scores: Tensor
    real: Tensor
    listed: Tensor
    rank: Tensor
    relevance: Tensor
    gain: Tensor
    weight: Tensor
    teacher: Tensor
    reference: Tensor | None
    seeds: tuple[str, ...]
    samples: int

    def take(self, chosen: Tensor) -> Self:
        """The lists of the `chosen` [B] queries, what is real first, as wide as the longest of them."""
        real = self.real[chosen]
        order = (~real).byte().argsort(dim=1, stable=True)[:, : int(real.sum(dim=1).max())]
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        narrow: dict[str, Any] = {
            key: value[chosen].gather(1, order) for key, value in tensors.items() if isinstance(value, torch.Tensor)
        }
        seeds = tuple(seed for seed, own in zip(self.seeds, chosen.tolist(), strict=True) if own)
        return replace(self, **narrow, seeds=seeds)


def make_lists(
    batch: PackedBatch,
    scores: Tensor,
    gain: Gain = "log",
    reference: Tensor | None = None,
    step: int = 0,
    samples: int = 2,
) -> Lists:
    """The lists of a batch whose docIDs have these `scores` [D], and these of the `reference` [D]."""
    row, queries = batch.doc_query, len(batch.query_ids)
    counts = row.bincount(minlength=queries)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]

    def spread(values: Tensor) -> Tensor:
        empty = values.new_zeros(queries, int(counts.max()))
        return empty.index_put((row, place), values)

    listed, rank = spread(~batch.doc_negative), spread(batch.doc_rank)
    real = spread(torch.ones_like(batch.doc_negative))
    by_rank = torch.where(listed, listed.sum(dim=1, keepdim=True) + 1 - rank, 0).to(scores.dtype)
    relevance = graded(spread(batch.doc_grade.to(scores.dtype)), real, by_rank)
    return Lists(
        scores=spread(scores),
        real=real,
        listed=listed,
        rank=rank,
        relevance=relevance,
        gain=gains(relevance, gain),
        weight=spread(batch.doc_weight.to(scores.dtype)),
        teacher=spread(batch.doc_teacher.to(scores.dtype)),
        reference=None if reference is None else spread(reference),
        seeds=tuple(f"{step}/{query_id}" for query_id in batch.query_ids),
        samples=samples,
    )


def graded(grades: Tensor, real: Tensor, by_rank: Tensor) -> Tensor:
    """[B, N] the `grades` of lists that have any, 0 for none and for those below 0; else the relevances `by_rank`."""
    given = real & grades.isfinite()
    return torch.where(given.any(dim=1, keepdim=True), torch.where(given, grades, 0.0).clamp(min=0), by_rank)


def gains(relevance: Tensor, kind: Gain) -> Tensor:
    """What nDCG pays for a relevance [B, N]: log(1 + y), as the paper does (section 5.1), y itself, or 2^y - 1.

    The last is divided by 2^max, which no share of an ideal DCG or of a list's gains can tell.
    """
    if kind == "log":
        return relevance.log1p()
    if kind == "linear":
        return relevance
    highest = relevance.amax(dim=1, keepdim=True)
    return torch.exp2(relevance - highest) - torch.exp2(-highest)


def gain_shares(lists: Lists) -> Tensor:
    """[B, N] each document's gain, times its weight, over the list's ideal DCG; 0 where no document has a gain."""
    gain = lists.weight * lists.gain
    best = gain.sort(dim=1, descending=True).values
    total = (best * discounts(gain)).sum(dim=1, keepdim=True)
    return gain / torch.where(total > 0, total, 1.0)


def discounts(values: Tensor) -> Tensor:
    """[N] 1 / log2(1 + place) for the places 1 to N of `values` [..., N]."""
    return 1 / torch.arange(2, values.shape[-1] + 2, device=values.device, dtype=values.dtype).log2()


def above(lists: Lists) -> Tensor:
    """[B, N, N] True where the first document has a better rank than the second."""
    real = lists.real[:, :, None] & lists.real[:, None, :]
    return real & (lists.rank[:, :, None] < lists.rank[:, None, :])


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """[B] the mean of `values` [B, ...] by `weights`, 0 where all of a list's are 0."""
    total = weights.flatten(1).sum(dim=1)
    return (weights * values).flatten(1).sum(dim=1) / torch.where(total > 0, total, 1.0)


def pair_weights(lists: Lists, pairs: Tensor) -> Tensor:
    """[B, N, N] the product of both documents' weights, 0 where they are not one of the `pairs`."""
    return torch.where(pairs, lists.weight[:, :, None] * lists.weight[:, None, :], 0.0)


def smooth_ranks(lists: Lists) -> Tensor:
    """[B, N] 1 + sum_j sigmoid(s_j - s_i) over the other documents: the rank that a hard comparison would count."""
    beaten = torch.sigmoid(lists.scores[:, None, :] - lists.scores[:, :, None])
    others = lists.real[:, None, :] & ~torch.eye(lists.real.shape[1], dtype=torch.bool, device=lists.real.device)
    return 1 + torch.where(others, beaten, 0.0).sum(dim=2)
