"""What a ranking loss is: a function of padded lists, and all that the rest of the library has to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoical.objectives.ranking.lists import Lists

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RankingLoss:
    """A ranking loss.

    value: its value for every list, [B]. formula: the same in a line, for model cards; s is a docID's score over the
    temperature, w its weight in the data, r its rank. source: the paper. The rest: which settings it reads, and what
    it cannot do without.
    """

    value: Callable[[Lists], Tensor]
    formula: str
    source: str
    reads_gain: bool = False
    reads_samples: bool = False
    needs_negatives: bool = False
    needs_teacher: bool = False
    needs_reference: bool = False
