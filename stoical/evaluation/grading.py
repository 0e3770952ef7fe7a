"""What the user's own grades count as: gains for nDCG, and which documents are relevant.

Dimension letters: D documents of one query. Grades [D] are floats, NaN for a document that nobody judged, which gains
nothing and is not relevant, as trec_eval has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stoical.common.arrays import Bools, Floats
from stoical.data.rows import RankingRow

FORMS = "linear, exponential, or a gain for each grade such as 3:1,2:0.1,1:0.01,0:0"


@dataclass(frozen=True, slots=True)
class Gains:
    """The gain of a grade g: g itself (`linear`), 2^g - 1 (`exponential`), or what a table says.

    Grades below 0 gain as 0 does, in the first two. `words` are the setting's.
    """

    words: str = "linear"
    table: tuple[tuple[float, float], ...] = ()

    @classmethod
    def parse(cls, words: str) -> Gains:
        """The gains that `eval.gains` names.

        Raises `ValueError` for words that are none of them, a gain that is negative or not finite, a grade that comes
        twice, gains that fall where grades rise, and a table without a gain above 0.
        """
        if words in ("linear", "exponential"):
            return cls(words)
        table = sorted(_pair(word, words) for word in words.split(","))
        for (grade, gain), (higher, more) in pairwise(table):
            if grade == higher:
                raise ValueError(f"eval.gains={words} names grade {grade:g} twice")
            if more < gain:
                raise ValueError(
                    f"eval.gains={words} gives grade {higher:g} less than grade {grade:g}; more is better: give other "
                    "grades when importing (grades=LABEL:GRADE,...)"
                )
        if table[-1][1] == 0:
            raise ValueError(f"eval.gains={words} gives no grade a gain above 0")
        return cls(words, tuple(table))

    def of(self, grades: Floats) -> Floats:
        """[D] the gains of `grades` [D]. Raises `ValueError` for a grade without one, and for gains past any float."""
        if self.table:
            return self._looked_up(grades)
        known = np.nan_to_num(np.maximum(grades, 0.0), nan=0.0)
        with np.errstate(over="ignore"):
            gains: Floats = np.exp2(known) - 1 if self.words == "exponential" else known
        if not np.isfinite(gains.sum()):
            raise ValueError(f"grade {known.max():g} is too high for eval.gains={self.words}; use another")
        return gains

    def _looked_up(self, grades: Floats) -> Floats:
        gains = dict(self.table)
        unnamed = [grade for grade in grades.tolist() if not math.isnan(grade) and grade not in gains]
        if unnamed:
            named = ", ".join(f"{grade:g}" for grade in gains)
            raise ValueError(
                f"grade {unnamed[0]:g} is none of those that eval.gains={self.words} names ({named}); add it"
            )
        return np.array([0.0 if math.isnan(grade) else gains[grade] for grade in grades.tolist()])


def _pair(word: str, words: str) -> tuple[float, float]:
    """A grade and its gain."""
    try:
        grade, gain = map(float, word.split(":"))
    except ValueError:
        alone = " (YAML reads one pair alone, such as 1:1, as a number: add 0:0)" if words.isdecimal() else ""
        raise ValueError(
            f"eval.gains={words}: {word.strip()!r} is not a grade and its gain; give {FORMS}{alone}"
        ) from None
    if not (math.isfinite(grade) and 0 <= gain < math.inf):
        raise ValueError(f"eval.gains={words}: {word.strip()!r} is not a grade and a finite gain, 0 or more")
    return grade, gain


@dataclass(frozen=True, slots=True)
class Grading:
    """How a query's grades are read: their gains, and the grade above which a document is relevant."""

    gains: Gains = Gains()
    relevant_above: float = 0.0

    def relevant(self, grades: Floats | None, num_docs: int, num_negatives: int) -> Bools:
        """[D] which documents are relevant: by their grades; where there are none, those that are not negatives."""
        if grades is None:
            return np.arange(num_docs) < num_docs - num_negatives
        return np.nan_to_num(grades, nan=-np.inf) > self.relevant_above


def as_grades(values: Sequence[float | None] | None) -> Floats | None:
    """[D] a query's grades, NaN for None; None where no document has one."""
    if not values or all(value is None for value in values):
        return None
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def check_grades(rows: Iterable[RankingRow], grading: Grading, metric: str, name: str) -> None:
    """Raise `ValueError` naming the query of data `name` that has no grade for `metric`, or one without a gain."""
    for row in rows:
        grades = as_grades([doc.grade for doc in (*row.docs, *row.negatives)])
        if grades is None:
            raise ValueError(
                f"eval.metrics={metric} needs grades, and query {row.query_id!r} of {name} has none: give its "
                "documents a 'grade' (importers keep them: make the data again), or drop the metric"
            )
        try:
            grading.gains.of(grades)
        except ValueError as error:
            raise ValueError(f"query {row.query_id!r} of {name}: {error}") from None
