"""Ordered top-r lists of any number of documents in 2 r dimensions, in exact rational arithmetic.

Dimension letters: m documents, r documents in a list, n = 2 r dimensions.

The documents lie on the trigonometric moment curve: document i is (cos jt, sin jt) for j = 1, ..., r, at its own angle
t. A query is then a trigonometric polynomial of degree r, read at the documents' angles. The product over the list of
-(1 - cos(t - t_i)) is 0 on the list and negative elsewhere, and adding a little of a polynomial that falls along the
list orders it. All documents have the same length, so that dot products, cosines and negated Euclidean distances (Eq.
2) give one ranking. Angles with rational sine and cosine make every number rational.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Point = tuple[Fraction, Fraction]  # cosine and sine of an angle; also a complex number
Series = dict[int, Point]  # Fourier coefficients c_j of a real function: c_-j is the conjugate of c_j
ZERO, ONE = (Fraction(0), Fraction(0)), (Fraction(1), Fraction(0))


def times(a: Point, b: Point) -> Point:
    """The product of two complex numbers."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def angles(m: int) -> list[Point]:
    """M points of the unit circle with rational coordinates: ((1 - s^2) / (1 + s^2), 2 s / (1 + s^2)), spread about."""
    slopes = [Fraction(round(1000 * math.tan(math.pi * (2 * i + 1 - m) / (2 * m))), 1000) for i in range(m)]
    return [((1 - s * s) / (1 + s * s), 2 * s / (1 + s * s)) for s in slopes]


def document(angle: Point, r: int) -> list[Fraction]:
    """[2 r] a document's vector, (cos jt, sin jt) for j = 1, ..., r."""
    powers = itertools.accumulate([angle] * r, times)
    return [part for power in powers for part in power]


def falls_off(angle: Point) -> Series:
    """1 - cos(t - t_i): 0 at the angle t_i and positive elsewhere."""
    half = (-angle[0] / 2, angle[1] / 2)
    return {0: ONE, 1: half, -1: (half[0], -half[1])}


def product(factors: Sequence[Series]) -> Series:
    """The Fourier coefficients of a product of functions."""
    result: Series = {0: ONE}
    for factor in factors:
        longer: Series = {}
        for (i, a), (j, b) in itertools.product(result.items(), factor.items()):
            real, imaginary = times(a, b)
            before = longer.get(i + j, ZERO)
            longer[i + j] = (before[0] + real, before[1] + imaginary)
        result = longer
    return result


def vector(series: Series, r: int) -> list[Fraction]:
    """[2 r] the query whose product with a document is the function at its angle, less the constant c_0."""
    return [part for j in range(1, r + 1) for part in (2 * series.get(j, ZERO)[0], -2 * series.get(j, ZERO)[1])]


def dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    """The dot product."""
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def value(series: Series, at: Sequence[Fraction]) -> Fraction:
    """The function at the angle of a document [2 r]."""
    return series[0][0] + dot(vector(series, len(at) // 2), at)


def query_for(points: Sequence[Point], chosen: Sequence[int]) -> list[Fraction]:
    """[2 r] a query that ranks the documents at `points` with `chosen` first, in this order, and all others below."""
    r, documents = len(chosen), [document(point, len(chosen)) for point in points]
    factors = {i: falls_off(points[i]) for i in chosen}
    away = product([*factors.values()])
    falling: Series = {}  # r, r - 1, ..., 1 along the list, and nowhere negative
    for place, i in enumerate(chosen):
        others = product([factors[j] for j in chosen if j != i])
        share = (r - place) / value(others, documents[i])
        for j, (real, imaginary) in others.items():
            before = falling.get(j, ZERO)
            falling[j] = (before[0] + share * real, before[1] + share * imaginary)
    rest = [each for i, each in enumerate(documents) if i not in chosen]
    rises = [(value(away, each), value(falling, each)) for each in rest]
    little = min((drop / (2 * rise) for drop, rise in rises if rise > 0), default=Fraction(1))
    return [little * b - a for a, b in zip(vector(away, r), vector(falling, r), strict=True)]


@dataclass(frozen=True, slots=True)
class Lists:
    """Of all ordered lists of r out of m documents: how many a query makes, exactly, and the narrowest of them.

    margin: the smallest gap between two scores that must differ, documents and queries scaled to length 1.
    """

    documents: int
    length: int
    dimensions: int
    lists: int
    made: int
    margin: float


def check_lists(m: int, r: int) -> Lists:
    """Make a query for every ordered list of r out of m documents, and check it with exact scores."""
    points = angles(m)
    documents = [document(point, r) for point in points]
    made, margin = 0, math.inf
    orders = [*itertools.permutations(range(m), r)]
    for chosen in orders:
        query = query_for(points, chosen)
        scores = [dot(query, each) for each in documents]
        rest = max((score for i, score in enumerate(scores) if i not in chosen), default=None)
        steps = [*(scores[i] for i in chosen), *([] if rest is None else [rest])]
        gap = min((a - b for a, b in itertools.pairwise(steps)), default=Fraction(1))
        made += gap > 0
        margin = min(margin, float(gap) / math.sqrt(float(dot(query, query)) * r))
    return Lists(m, r, 2 * r, len(orders), made, margin)
