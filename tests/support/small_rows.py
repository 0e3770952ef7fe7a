"""Per-query rows as an evaluation writes them, out of random scores: no model needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import mean_metrics, query_metrics
from stoical.evaluation.paper import near_ties
from stoical.evaluation.result import Evaluation, QueryResult

KS = [1, 2, 5]


def result(**given: Any) -> QueryResult:
    """A query of which only some things matter."""
    fields: dict[str, Any] = {name: [] for name in ("docids", "ranks", "scores", "docid_tokens")}
    fields |= {"query_id": "q", "mode": "exact", "metrics": {}, "num_negatives": 0, "dropped_docs": 0, "near_ties": 0}
    return QueryResult(**fields | given)


def make_row(
    random: np.random.Generator, query_id: str, docs: int, negatives: int = 1, noise: float = 1.0
) -> QueryResult:
    """Scores that fall with the rank, plus noise; docIDs of 2 to 5 tokens."""
    count = docs + negatives
    scores = (-np.arange(count) / 3 + noise * random.normal(size=count)).astype(np.float32).astype(np.float64) - 5
    ranks = [*range(1, docs + 1), *[docs + 1] * negatives]
    tokens = random.integers(2, 6, size=count).tolist()
    metrics = query_metrics(JudgedQuery(scores, np.array(ranks), negatives), KS)
    metrics |= {"valid_mass": float(random.uniform(0.2, 0.9)), "free_run_ndcg": float(random.uniform(0.5, 1))}
    metrics |= {"invalid_rate": float(random.uniform() < 0.3)}
    return QueryResult(
        query_id=query_id,
        mode="exact",
        metrics=metrics,
        docids=[f"{query_id} doc {place}" for place in range(1, count + 1)],
        ranks=ranks,
        scores=scores.tolist(),
        docid_tokens=tokens,
        num_negatives=negatives,
        dropped_docs=0,
        near_ties=near_ties(scores),
        valid_mass_by_step=random.uniform(0.2, 1, size=tokens[0]).tolist(),
    )


def make_evaluation(queries: int = 40, seed: int = 0, noise: float = 1.0) -> Evaluation:
    """Lists of 1 to 7 documents; every fifth query has no negative. `seed` changes scores, not queries."""
    sizes, random = np.random.default_rng(99), np.random.default_rng(seed)
    rows = [make_row(random, f"q{i}", int(sizes.integers(1, 8)), int(i % 5 != 0), noise) for i in range(queries)]
    means = mean_metrics(row.metrics for row in rows)
    ties = sum(row.near_ties for row in rows)
    settings = {"mode": "exact", "score": "mean", "terminator": "eos", "count_terminator": True, "num_beams": 5}
    return Evaluation({"num_queries": queries, "dropped_docs": 0, **means, "near_ties": ties}, settings, rows)
