"""Dual encoders without an encoder: a free vector for every query and document, against the exact counts.

Dimension letters: Q = k! queries (one for each order), k documents, n dimensions, P = k - 1 neighbours in an order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from stoical.common.arrays import Floats
from stoical.common.lazy import torch
from stoical.studies.capacity.counts import Similarity, orders

if TYPE_CHECKING:
    from torch import Tensor

SHARPNESS = 5.0  # of the loss softplus(-SHARPNESS * difference)
RATE = 0.05  # Adam's
CHECK_EVERY = 50  # steps between two counts of what is right
ROUNDING = 1e-12  # a unit vector's margin above which float64's sign is certain


def all_orders(k: int) -> list[tuple[int, ...]]:
    """The k! orders of k documents, each from first to last."""
    return [*itertools.permutations(range(k))]


def scores(queries: Tensor, documents: Tensor, similarity: Similarity) -> Tensor:
    """[Q, k] the dot product, or the negated squared distance less |q|^2, which changes no order."""
    products = queries @ documents.T
    return products if similarity == "dot" else 2 * products - (documents * documents).sum(dim=1)


@contextmanager
def tiny_as_zero() -> Iterator[None]:
    """Round numbers below 1e-38 to 0: the gradients of orders long learned are such, and cost four times the time."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@tiny_as_zero()
def train(k: int, n: int, similarity: Similarity, seed: int, steps: int) -> tuple[Floats, int]:
    """Train queries and documents together by Adam to rank all k! orders; documents [k, n], and how many were right.

    The count is the most that one state of all vectors had right, looked at every CHECK_EVERY steps. Training ends
    where that is as much as n dimensions allow.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.tensor(all_orders(k))
    queries = torch.randn(len(wanted), n, generator=generator).requires_grad_()
    documents = torch.randn(k, n, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([queries, documents], lr=RATE)
    most = 0
    for step in range(1, steps + 1):
        in_order = scores(queries, documents, similarity).gather(1, wanted)
        falls = in_order[:, :-1] - in_order[:, 1:]  # [Q, P], all positive where an order is right
        loss = torch.nn.functional.softplus(-SHARPNESS * falls).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % CHECK_EVERY == 0 or step == steps:
            most = max(most, int((falls > 0).all(dim=1).sum()))
            if most == orders(k, n, similarity):
                break
    return documents.detach().double().numpy(), most


def within_reach(documents: Floats, similarity: Similarity) -> int:
    """How many of the k! orders of `documents` [k, n] some query vector makes: every order gets its best query."""
    return sum(query_for(documents, order, similarity) is not None for order in all_orders(len(documents)))


def query_for(documents: Floats, order: Sequence[int], similarity: Similarity) -> Floats | None:
    """[n] a query that ranks `documents` [k, n] in this order, strictly; None where there is none.

    Lawson and Hanson's least distance programming: of the convex hull of the differences between neighbours, all of
    which must have a positive product with the query, the point nearest to 0 is that query, unless it is 0 itself.
    """
    if similarity == "dot":
        rows = documents[order[:-1],] - documents[order[1:],]
    else:  # 2 q (a - b) > |a|^2 - |b|^2 is linear in (2 q, -1) times any positive number
        lifted = np.hstack([documents, (documents**2).sum(axis=1, keepdims=True)])
        positive = -np.eye(documents.shape[1] + 1)[-1:]
        rows = np.vstack([lifted[order[:-1],] - lifted[order[1:],], positive])
    found = positive_side(rows)
    if found is None or similarity == "dot":
        return found
    return found[:-1] / (-2 * found[-1])


def positive_side(rows: Floats) -> Floats | None:
    """[n] a unit vector with a positive product with every row of `rows` [P, n]; None where there is none."""
    from scipy.optimize import nnls

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        return None
    rows = rows / lengths
    weights, _ = nnls(np.vstack([rows.T, np.ones(len(rows))]), np.eye(rows.shape[1] + 1)[-1])
    nearest = weights @ rows
    length = np.linalg.norm(nearest)
    if length == 0 or (rows @ nearest).min() <= ROUNDING * length:
        return None
    return nearest / length
