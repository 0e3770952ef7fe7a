"""The one table of metrics, of one query at a time. Fractions, not percentages.

`paper.py` has section 5.1's, `standard.py` the field's, `tie_orders.py` both in expectation over equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np

from stoical.common.fields import alike, unknown
from stoical.evaluation import paper, standard, tie_orders
from stoical.evaluation.judged import JudgedQuery, relevance

Place = Literal["tables", "comparison", "curves", "bar"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, how it is computed, and where it is shown.

    name: in files. title: to readers; full_title: above a plot of its own, if another. compute: the value of one
    `JudgedQuery`, None where the query does not have it; with `has_cutoff`, of a query and a cutoff k. better: which
    values are. shown: in every table and line of results ("tables"), after those where runs are compared
    ("comparison"), as a training curve ("curves"), beside the progress bar ("bar"). exact_only: computed of the free
    run. over_ties: the expectation of `compute` over all orders of documents with equal scores, for rows that no model
    makes. asked_only: computed where eval.metrics names it, of the user's grades where it needs_grades, of which
    documents are relevant where it is by_relevance; some of these are there with a cutoff and without
    (cutoff_optional). metrics.json and per_query.jsonl hold all metrics.
    """

    name: str
    title: str
    compute: Callable[..., float | None]
    better: Literal["higher", "lower"] = "higher"
    shown: tuple[Place, ...] = ()
    full_title: str | None = None
    has_cutoff: bool = False
    exact_only: bool = False
    over_ties: Callable[..., float | None] | None = None
    asked_only: bool = False
    needs_grades: bool = False
    by_relevance: bool = False
    cutoff_optional: bool = False

    def at(self, k: int) -> Metric:
        """The metric at one cutoff: `recall@5`, R@5."""
        name, title = f"{self.name}@{k}", f"{self.title}@{k}"
        over_ties = partial(self.over_ties, k=k) if self.over_ties else None
        compute = partial(self.compute, k=k)
        return replace(self, name=name, title=title, compute=compute, over_ties=over_ties, has_cutoff=False)

    @property
    def spellings(self) -> list[str]:
        """How eval.metrics may name it."""
        return [self.name] * (not self.has_cutoff or self.cutoff_optional) + [f"{self.name}@K"] * self.has_cutoff

    @property
    def column(self) -> str:
        """The title with the arrow of what is better, as the paper's tables have it."""
        return f"{self.title} ({'↑' if self.better == 'higher' else '↓'})"


def _cvr(query: JudgedQuery) -> float | None:
    return float(paper.violates(query.scores, query.num_negatives)) if query.num_negatives else None


def _ndcg(query: JudgedQuery) -> float:
    return paper.ndcg(query.scores, query.gains)


def _recall(query: JudgedQuery, k: int) -> float:
    return paper.recall_at_k(query.scores, query.ranks, k, query.num_negatives)


def _valid_mass(query: JudgedQuery) -> float:
    return query.written.valid_mass


def _free_run_ndcg(query: JudgedQuery) -> float:
    """Of what beam search finds; what it does not comes last, the least relevant first."""
    return paper.ndcg(query.written.beam_scores, query.gains)


def _invalid(query: JudgedQuery) -> float:
    return float(not query.written.greedy_is_valid)


def _cvr_over_ties(query: JudgedQuery) -> float | None:
    return tie_orders.expected_violation(query.scores, query.num_negatives) if query.num_negatives else None


def _ndcg_over_ties(query: JudgedQuery) -> float:
    return tie_orders.expected_ndcg(query.scores, query.gains)


def _recall_over_ties(query: JudgedQuery, k: int) -> float:
    return tie_orders.expected_common(query.scores, query.ranks, k, query.num_negatives) / k


def _graded_ndcg(query: JudgedQuery, k: int | None = None) -> float:
    return standard.graded_ndcg(query.graded_gains[query.order], k)


def _graded_ndcg_over_ties(query: JudgedQuery, k: int | None = None) -> float:
    return tie_orders.expected_ndcg(query.scores, query.graded_gains, k)


def _mrr(query: JudgedQuery) -> float:
    return standard.reciprocal_rank(query.relevant[query.order])


def _mrr_over_ties(query: JudgedQuery) -> float:
    return tie_orders.expected_reciprocal_rank(query.scores, query.relevant)


def _map(query: JudgedQuery) -> float:
    return standard.average_precision(query.relevant[query.order])


def _map_over_ties(query: JudgedQuery) -> float:
    return tie_orders.expected_average_precision(query.scores, query.relevant)


def _precision(query: JudgedQuery, k: int) -> float:
    return standard.precision(query.relevant[query.order], k)


def _precision_over_ties(query: JudgedQuery, k: int) -> float:
    return tie_orders.expected_hits(query.scores, query.relevant, k) / k


def _standard_recall(query: JudgedQuery, k: int) -> float:
    return standard.recall(query.relevant[query.order], k)


def _standard_recall_over_ties(query: JudgedQuery, k: int) -> float:
    return tie_orders.expected_hits(query.scores, query.relevant, k) / max(1, int(query.relevant.sum()))


def _kendall_tau(query: JudgedQuery) -> float | None:
    return standard.kendall_tau(query.scores, -relevance(query.ranks, query.num_negatives, None))


METRICS = (  # in the order of files and tables
    Metric(
        "cvr",
        "CVR",
        _cvr,
        "lower",
        ("tables", "curves", "bar"),
        "constraint violation rate",
        over_ties=_cvr_over_ties,
    ),
    Metric("ndcg", "nDCG", _ndcg, shown=("tables", "curves"), over_ties=_ndcg_over_ties),
    Metric("recall", "R", _recall, shown=("tables",), has_cutoff=True, over_ties=_recall_over_ties),
    Metric(
        "graded_ndcg",
        "graded nDCG",
        _graded_ndcg,
        shown=("tables",),
        has_cutoff=True,
        cutoff_optional=True,
        over_ties=_graded_ndcg_over_ties,
        asked_only=True,
        needs_grades=True,
    ),
    Metric("mrr", "MRR", _mrr, shown=("tables",), over_ties=_mrr_over_ties, asked_only=True, by_relevance=True),
    Metric("map", "MAP", _map, shown=("tables",), over_ties=_map_over_ties, asked_only=True, by_relevance=True),
    Metric(
        "precision",
        "P",
        _precision,
        shown=("tables",),
        has_cutoff=True,
        over_ties=_precision_over_ties,
        asked_only=True,
        by_relevance=True,
    ),
    Metric(
        "standard_recall",
        "standard recall",
        _standard_recall,
        shown=("tables",),
        has_cutoff=True,
        over_ties=_standard_recall_over_ties,
        asked_only=True,
        by_relevance=True,
    ),
    Metric("kendall_tau", "Kendall τ", _kendall_tau, shown=("tables",), over_ties=_kendall_tau, asked_only=True),
    Metric("valid_mass", "valid mass", _valid_mass, exact_only=True),
    Metric("free_run_ndcg", "free-run nDCG", _free_run_ndcg, shown=("comparison",), exact_only=True),
    Metric("invalid_rate", "invalid", _invalid, "lower", shown=("comparison",), exact_only=True),
)


def metrics_among(names: Iterable[str], *places: Place) -> list[Metric]:
    """Those of METRICS that `names` has and one of `places` shows (all, without places); cutoffs ascending."""
    known, found = set(names), []
    for metric in METRICS:
        if metric.name in known and (not metric.has_cutoff or metric.cutoff_optional):
            found.append(metric)
        if metric.has_cutoff:
            start = f"{metric.name}@"
            found += [metric.at(k) for k in sorted(int(n.removeprefix(start)) for n in known if n.startswith(start))]
    return [metric for metric in found if not places or set(places) & set(metric.shown)]


ALIASES = {
    "ndcg": "graded_ndcg",
    "rr": "mrr",
    "ap": "map",
    "p": "precision",
    "r": "standard_recall",
    "tau": "kendall_tau",
}


def asked_metrics(names: Iterable[str]) -> list[Metric]:
    """The metrics that eval.metrics names, beside those that are always computed, in the table's order.

    Raises `ValueError` for a name that is not known, and for a cutoff that is missing or not a whole number from 1.
    """
    names = list(names)
    asked = [metric for metric in METRICS if metric.asked_only]
    spellings = [spelling for metric in asked for spelling in metric.spellings]
    for name in names:
        start, at, k = name.partition("@")
        if any(metric.name == start and not metric.asked_only for metric in METRICS) and start != "ndcg":
            raise ValueError(
                f"eval.metrics: {name} is one of the paper's metrics, which are always there (cutoffs: "
                f"eval.recall_at); drop it, or use any of {', '.join(spellings)}"
            )
        if start + "@K" * bool(at) not in spellings:
            names_of = {spelling.partition("@")[0]: spelling for spelling in reversed(spellings)}
            meant = alike(start.lower(), [*names_of, *ALIASES])
            close = names_of[ALIASES.get(meant, meant)] if meant else None
            what, hint = f"eval.metrics={name}", f" Use any of {', '.join(spellings)}."
            raise unknown("metric", what, spellings, hint, close)
        if at and not (k.isascii() and k.isdecimal() and 0 < int(k) < 10**9):
            raise ValueError(f"eval.metrics: {name} must have a whole number from 1 after the @, such as {start}@10")
    return metrics_among(names)


@cache
def _of_any_query(cutoffs: tuple[int, ...]) -> list[Metric]:
    """The metrics that are always computed, in the order of files."""
    always = [metric for metric in METRICS if not metric.asked_only]
    return [one for metric in always for one in (map(metric.at, cutoffs) if metric.has_cutoff else [metric])]


def metrics_of(cutoffs: Sequence[int], asked: Sequence[Metric], free_run: bool) -> Iterator[Metric]:
    """The metrics that a query may have, in the order of files: those asked for before those of its free run."""
    always = _of_any_query(tuple(cutoffs))
    yield from (metric for metric in always if not metric.exact_only)
    yield from asked
    yield from (metric for metric in always if metric.exact_only and free_run)


def query_metrics(query: JudgedQuery, cutoffs: Sequence[int], asked: Sequence[Metric] = ()) -> dict[str, float]:
    """All metrics that one query has, by name, `asked` ones too: `cvr` (0 or 1) only where there is a negative."""
    known = metrics_of(cutoffs, asked, query.free_run is not None)
    values = ((metric.name, metric.compute(query)) for metric in known)
    return {name: value for name, value in values if value is not None}


def expected_metrics(query: JudgedQuery, cutoffs: Sequence[int], asked: Sequence[Metric] = ()) -> dict[str, float]:
    """`query_metrics` in expectation over the orders of documents with equal scores; none of a free run."""
    known = metrics_of(cutoffs, asked, query.free_run is not None)
    values = ((metric.name, metric.over_ties(query)) for metric in known if metric.over_ties)
    return {name: value for name, value in values if value is not None}


def mean_metrics(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over the queries that have it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in columns.items()}
