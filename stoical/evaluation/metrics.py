"""Ranking metrics of section 5.1, one query at a time, and the one table of them. Fractions, not percentages.

Dimension letters: D documents of one query, the most relevant first, negatives last; scores [D] are log-probabilities
(nats), higher is better; ranks [D] are the gold ranks from 1; `num_negatives` of the documents are negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

NEAR_TIE = 1e-3  # nats


def predicted_order(scores: Floats) -> Ints:
    """[D] document places by descending score; ties go against the model: the less relevant document comes first.

    Which of two documents with one score and one gold rank comes first makes no difference to any metric.
    """
    return (len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")).astype(np.int64)


def violates(scores: Floats, num_negatives: int) -> bool:
    """True where a relevant document's score is below a negative's. The mean over queries is CVR."""
    positives = len(scores) - num_negatives
    return bool(scores[:positives].min() < scores[positives:].max())


def gold_gains(ranks: Ints, num_negatives: int) -> Floats:
    """[D] log(n_q + 1) for rank 1 down to log 2 for rank n_q, and log 1 = 0 for negatives."""
    positives = len(ranks) - num_negatives
    gains = np.log(np.maximum(positives + 2 - ranks, 1.0))
    gains[positives:] = 0.0
    return gains


def ndcg(scores: Floats, gains: Floats) -> float:
    """DCG of the predicted order over DCG of the ideal one, discount 1 / log2(place + 1), gains linear."""
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    ideal = float(np.sort(gains)[::-1] @ discounts)
    return float(gains[predicted_order(scores)] @ discounts) / ideal


def recall_at_k(scores: Floats, ranks: Ints, k: int, num_negatives: int = 0) -> float:
    """|gold top k and predicted top k in common| / k, to the letter: 3 relevant documents have R@5 = 3 / 5 at best.

    The prediction ranks negatives among the documents; the gold ranking holds relevant documents only. Where the gold
    top k ends within a rank that several documents share, each of them is as good: those of better ranks count, and of
    that rank as many as the gold top k has places left for. So ranks 1, 2, 2 at k = 2 give the prediction {1st, a 2nd}
    1.0 and {2nd, 2nd} 0.5, in whatever order the list has them.
    """
    positives = len(scores) - num_negatives
    gold = ranks[:positives]
    last = np.sort(gold)[min(k, positives) - 1]
    places = min(k, positives) - int((gold < last).sum())
    found = predicted_order(scores)[:k]
    found_ranks = gold[found[found < positives]]
    return float((found_ranks < last).sum() + min(places, int((found_ranks == last).sum()))) / k


def near_ties(scores: Floats) -> int:
    """How many neighbours in the predicted order are within 1e-3 nats, so that less exact arithmetic may swap them."""
    return int((np.diff(np.sort(scores)) <= NEAR_TIE).sum())


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
    """One query as a model judged it, which its metrics are computed from. Exact mode alone knows the free run."""

    scores: Floats
    ranks: Ints
    num_negatives: int
    free_run: FreeRun | None = None

    @property
    def gains(self) -> Floats:
        """[D] see `gold_gains`."""
        return gold_gains(self.ranks, self.num_negatives)

    @property
    def written(self) -> FreeRun:
        """The free run, where a metric is `exact_only`."""
        assert self.free_run is not None
        return self.free_run


Place = Literal["tables", "comparison", "curves", "bar"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, how it is computed, and where it is shown.

    name: in files. title: to readers; full_title: above a plot of its own, if another. compute: the value of one
    `JudgedQuery`, None where the query does not have it; with `has_cutoff`, of a query and a cutoff k. better: which
    values are. shown: in every table and line of results ("tables"), after those where runs are compared
    ("comparison"), as a training curve ("curves"), beside the progress bar ("bar"). exact_only: computed of the free
    run. metrics.json and per_query.jsonl hold all metrics.
    """

    name: str
    title: str
    compute: Callable[..., float | None]
    better: Literal["higher", "lower"] = "higher"
    shown: tuple[Place, ...] = ()
    full_title: str | None = None
    has_cutoff: bool = False
    exact_only: bool = False

    def at(self, k: int) -> Metric:
        """The metric at one cutoff: `recall@5`, R@5."""
        compute = partial(self.compute, k=k)
        return replace(self, name=f"{self.name}@{k}", title=f"{self.title}@{k}", compute=compute, has_cutoff=False)

    @property
    def column(self) -> str:
        """The title with the arrow of what is better, as the paper's tables have it."""
        return f"{self.title} ({'↑' if self.better == 'higher' else '↓'})"


def _cvr(query: JudgedQuery) -> float | None:
    return float(violates(query.scores, query.num_negatives)) if query.num_negatives else None


def _ndcg(query: JudgedQuery) -> float:
    return ndcg(query.scores, query.gains)


def _recall(query: JudgedQuery, k: int) -> float:
    return recall_at_k(query.scores, query.ranks, k, query.num_negatives)


def _valid_mass(query: JudgedQuery) -> float:
    return query.written.valid_mass


def _free_run_ndcg(query: JudgedQuery) -> float:
    """Of what beam search finds; what it does not comes last, the least relevant first."""
    return ndcg(query.written.beam_scores, query.gains)


def _invalid(query: JudgedQuery) -> float:
    return float(not query.written.greedy_is_valid)


METRICS = (  # in the order of files and tables
    Metric("cvr", "CVR", _cvr, "lower", ("tables", "curves", "bar"), "constraint violation rate"),
    Metric("ndcg", "nDCG", _ndcg, shown=("tables", "curves")),
    Metric("recall", "R", _recall, shown=("tables",), has_cutoff=True),
    Metric("valid_mass", "valid mass", _valid_mass, exact_only=True),
    Metric("free_run_ndcg", "free-run nDCG", _free_run_ndcg, shown=("comparison",), exact_only=True),
    Metric("invalid_rate", "invalid", _invalid, "lower", shown=("comparison",), exact_only=True),
)


def metrics_among(names: Iterable[str], *places: Place) -> list[Metric]:
    """Those of METRICS that `names` has and one of `places` shows (all, without places); cutoffs ascending."""
    known, found = set(names), []
    for metric in METRICS:
        if metric.has_cutoff:
            start = f"{metric.name}@"
            found += [metric.at(k) for k in sorted(int(n.removeprefix(start)) for n in known if n.startswith(start))]
        elif metric.name in known:
            found.append(metric)
    return [metric for metric in found if not places or set(places) & set(metric.shown)]


def query_metrics(query: JudgedQuery, cutoffs: Sequence[int]) -> dict[str, float]:
    """All metrics that one query has, by name: `cvr` (0 or 1) only where there is a negative."""
    metrics = [one for metric in METRICS for one in (map(metric.at, cutoffs) if metric.has_cutoff else [metric])]
    known = [metric for metric in metrics if query.free_run or not metric.exact_only]
    values = ((metric.name, metric.compute(query)) for metric in known)
    return {name: value for name, value in values if value is not None}


def mean_metrics(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over the queries that have it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}
