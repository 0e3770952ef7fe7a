"""One query as a model judged it: what all metrics are computed from, and the order that TREC files have.

Dimension letters: D documents of one query, the most relevant first, negatives last; scores [D] are log-probabilities
(nats), higher is better; ranks [D] are the gold ranks from 1; `num_negatives` of the documents are negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stoical.common.arrays import Bools, Floats, Ints
from stoical.evaluation import paper
from stoical.evaluation.grading import Grading


def relevance(ranks: Ints, num_negatives: int, grades: Floats | None) -> Floats:
    """[D] a number that is higher the more relevant a document is: its grade, or where there are none by its rank."""
    if grades is not None:
        return np.nan_to_num(grades, nan=-np.inf)
    levels = -ranks.astype(np.float64)
    levels[len(ranks) - num_negatives :] = -np.inf
    return levels


def standard_order(scores: Floats, levels: Floats) -> Ints:
    """[D] document places by descending score, of equal ones the less relevant first. TREC files have this order."""
    return np.lexsort((levels, -scores))


@dataclass(frozen=True, slots=True)
class FreeRun:
    """What the model writes for one query by itself.

    beam_scores [D]: of the docIDs that a constrained beam search finds, -inf for the others. valid_mass: the
    probability of writing one of the query's docIDs; valid_mass_by_step: of writing a valid token, along the top docID
    (the mean of those that share the first rank).
    greedy_is_valid: True where unconstrained greedy decoding writes one of the docIDs or negatives.
    """

    beam_scores: Floats
    valid_mass: float
    valid_mass_by_step: list[float]
    greedy_is_valid: bool


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """One query as a model judged it, which its metrics are computed from. Exact mode alone knows the free run.

    grades [D]: the user's own, NaN where nobody judged, None where no document has one; grading: what they count as.
    """

    scores: Floats
    ranks: Ints
    num_negatives: int
    free_run: FreeRun | None = None
    grades: Floats | None = None
    grading: Grading = Grading()

    @property
    def gains(self) -> Floats:
        """[D] see `paper.gold_gains`."""
        return paper.gold_gains(self.ranks, self.num_negatives)

    @property
    def relevant(self) -> Bools:
        """[D] see `Grading.relevant`."""
        return self.grading.relevant(self.grades, len(self.scores), self.num_negatives)

    @property
    def graded_gains(self) -> Floats:
        """[D] the gains of the grades, where a metric `needs_grades`."""
        assert self.grades is not None
        return self.grading.gains.of(self.grades)

    @property
    def order(self) -> Ints:
        """[D] see `standard_order`."""
        return standard_order(self.scores, relevance(self.ranks, self.num_negatives, self.grades))

    @property
    def written(self) -> FreeRun:
        """The free run, where a metric is `exact_only`."""
        assert self.free_run is not None
        return self.free_run
