"""Intervals of paired differences over replications, and Holm's correction over methods.

Dimension letters: R replications.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stoical.common.arrays import Floats

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """mean: of ours minus the reference's; half: half the width of its 95% t interval; p: two-sided, paired t test.

    significant: after Holm's correction over what it was compared with (`holm`).
    """

    mean: float
    half: float
    p: float
    significant: bool = False


def half_width(values: Floats) -> float:
    """Half the width of the 95% t interval of the mean of `values` [R], R at least 2."""
    from scipy import stats

    error = float(values.std(ddof=1)) / len(values) ** 0.5
    return float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error


def paired(ours: Floats, reference: Floats) -> Difference:
    """The difference of two methods over the same replications, both [R]. Without any, p is 1."""
    from scipy import stats

    change = ours - reference
    half, mean = half_width(change), float(change.mean())
    error = float(change.std(ddof=1)) / len(change) ** 0.5
    if error == 0:
        return Difference(mean, half, 1.0 if mean == 0 else 0.0)
    return Difference(mean, half, float(2 * stats.t.sf(abs(mean) / error, len(change) - 1)))


def holm(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Each difference with whether it is significant at 5% among all of them (Holm 1979)."""
    ordered = sorted(differences, key=lambda name: differences[name].p)
    found, still = {}, True
    for place, name in enumerate(ordered):
        one = differences[name]
        still = still and one.p <= (1 - LEVEL) / (len(ordered) - place)
        found[name] = Difference(one.mean, one.half, one.p, still)
    return {name: found[name] for name in differences}
