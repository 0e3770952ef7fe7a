"""How many of the k! orders of k documents some query vector of n dimensions makes, in closed form.

Dimension letters: k documents, n dimensions of the embeddings. All counts are exact whole numbers.

A query orders documents by the sides that it lies on of the hyperplanes "as near to i as to j", one for every pair, so
the orders are the cells of an arrangement of hyperplanes. Documents in general position have the most cells, and how
many that is, is known.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

Similarity = Literal["dot", "distance"]
TOP_LISTS = (2, 5)  # lengths of ordered top lists, in the table and the figure of thresholds


@cache
def stirling(k: int) -> tuple[int, ...]:
    """(c(k, k), c(k, k-1), ..., c(k, 1)): the permutations of k that have k, k - 1, ..., 1 cycles."""
    row = [1]
    for size in range(2, k + 1):  # the last element is a cycle of its own, or follows one of the others
        row = [a + (size - 1) * b for a, b in zip([*row, 0], [0, *row], strict=True)]
    return tuple(row)


def dot_orders(k: int, n: int) -> int:
    """Orders by dot product, T(k, n) of Cover (1967): twice every other one of c(k, k-n+1), c(k, k-n+3), ...

    It obeys T(k, n) = T(k-1, n) + (k-1) T(k-1, n-1), and is k! from n = k - 1 on.
    """
    if k == 1 or n >= k - 1:
        return math.factorial(k)
    return 2 * sum(stirling(k)[n - 1 :: -2]) if n else 0


def distance_orders(k: int, n: int) -> int:
    """Orders by Euclidean distance, Eq. 2's similarity: N_{n,2}(k) of Skala (2009), c(k, k) + ... + c(k, k-n)."""
    return sum(stirling(k)[: n + 1])


def orders(k: int, n: int, similarity: Similarity) -> int:
    """The most of the k! orders that a dual encoder of n dimensions can have right."""
    return dot_orders(k, n) if similarity == "dot" else distance_orders(k, n)


def exact_dimension(k: int, similarity: Similarity) -> int:
    """The smallest n with which a dual encoder can rank all k! orders. It is k - 1 for both similarities."""
    return next(n for n in range(k) if orders(k, n, similarity) == math.factorial(k))


def paper_bound(k: int) -> float:
    """Ln k! / (2 ln k) of Theorem 3.1: with fewer dimensions than that, not all k! orders are ranked. k at least 2."""
    return math.lgamma(k + 1) / (2 * math.log(k))


def list_dimension(length: int, documents: int) -> int:
    """Dimensions that are enough for every ordered top list of `length` out of any number of documents: 2 r.

    m - 1 dimensions are enough for whatever m documents, so a long list of few documents takes fewer.
    """
    return min(2 * length, documents - 1)
