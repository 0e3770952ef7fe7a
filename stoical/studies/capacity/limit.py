"""LIMIT's free-embedding experiment: up to how many documents can every pair be some query's top 2?

Weller et al. (2025), "On the Theoretical Limitations of Embedding-Based Retrieval", train free unit vectors for the
documents and for one query a pair, and call the largest number of documents for which all pairs come out on top the
critical n of the dimension. Dimension letters: n documents, d dimensions, Q = n (n - 1) / 2 queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from stoical.common.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

RELEVANT = 2  # documents a query, as in LIMIT
TEMPERATURE, RATE = 0.1, 0.01
PATIENCE, LEAST_GAIN = 1_000, 1e-5  # steps without a loss that is lower by this much
CHECK_EVERY = 50


def published_curve(dimensions: int) -> float:
    """The critical n that LIMIT's authors fitted to their runs, a cubic in the dimension."""
    d = dimensions
    return -10.5322 + 4.0309 * d + 0.0520 * d**2 + 0.0037 * d**3


def exact_critical_n(dimensions: int) -> int | None:
    """The largest number of unit vectors all of whose pairs some query puts on top; None where there is no largest.

    From 4 = 2 * RELEVANT dimensions on, the moment curve has room for any number (`top_lists`). Of d + 2 documents one
    split in two (Radon's) cannot be made. On a sphere it has at least two documents on either side, so in 2 and 3
    dimensions one of the sides is a pair, and d + 1 documents are the most.
    """
    return dimensions + 1 if dimensions < 2 * RELEVANT else None


def is_solved(documents: int, dimensions: int, seed: int, steps: int) -> bool:
    """True where training ranks both documents of every pair above all others. InfoNCE loss, Adam, unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.tensor([*itertools.combinations(range(documents), RELEVANT)])
    relevant = torch.zeros(len(pairs), documents).scatter_(1, pairs, 1.0)
    queries = _unit(torch.randn(len(pairs), dimensions, generator=generator)).requires_grad_()
    vectors = _unit(torch.randn(documents, dimensions, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([queries, vectors], lr=RATE)
    best, waited = float("inf"), 0
    for step in range(steps):
        logprobs = torch.log_softmax(queries @ vectors.T / TEMPERATURE, dim=1)
        loss = -(logprobs * relevant).sum() / relevant.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            queries.copy_(_unit(queries))
            vectors.copy_(_unit(vectors))
            if step % CHECK_EVERY == 0 and _all_on_top(queries @ vectors.T, relevant):
                return True
        waited = 0 if loss.item() < best - LEAST_GAIN else waited + 1
        best = min(best, loss.item()) if waited == 0 else best
        if waited >= PATIENCE:
            break
    with torch.no_grad():
        return _all_on_top(queries @ vectors.T, relevant)


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def _all_on_top(scores: Tensor, relevant: Tensor) -> bool:
    """True where every query's relevant documents score above all its others; [Q, n] both."""
    lowest = scores.masked_fill(relevant == 0, float("inf")).amin(dim=1)
    highest = scores.masked_fill(relevant == 1, float("-inf")).amax(dim=1)
    return bool((lowest > highest).all())


def critical_n(dimensions: int, seed: int, steps: int, most: int, solved: Callable[..., bool] = is_solved) -> int:
    """The largest number of documents, from RELEVANT + 1 up to `most`, before the first that training fails on."""
    for documents in range(RELEVANT + 1, most + 1):
        if not solved(documents, dimensions, seed, steps):
            return documents - 1
    return most
