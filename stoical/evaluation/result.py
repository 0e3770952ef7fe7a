"""What an evaluation finds: the metrics, and for each query a line of per_query.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

from stoical.data.files import split_sha256
from stoical.decoding.choices import Scored
from stoical.evaluation.generation_metrics import Generation
from stoical.evaluation.line_checks import check_line
from stoical.evaluation.metrics import METRICS

Diagnostics = dict[str, dict[str, list[float]]]  # `diagnostics.Sums` by position, by who wrote the prefix


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One query as it was scored.

    metrics: those of `metrics.METRICS` that the query has, fractions. docids, ranks (from 1), scores (nats) and
    docid_tokens (how many of a docID's tokens its score counts): in the order of the list, its `num_negatives`
    negatives last. dropped_docs: by truncation. near_ties: see `paper.near_ties`. grades: the user's own, where a
    document has one. Exact mode adds valid_mass_by_step, see `judged.FreeRun`. diagnostics and generation: where the
    evaluation was asked for them; so are logprobs, log p(docID) in nats of the documents that are not negatives.
    """

    query_id: str
    mode: Scored
    metrics: dict[str, float]
    docids: list[str]
    ranks: list[int]
    scores: list[float]
    docid_tokens: list[int]
    num_negatives: int
    dropped_docs: int
    near_ties: int
    grades: list[float | None] | None = None
    logprobs: list[float] | None = None
    valid_mass_by_step: list[float] | None = None
    diagnostics: Diagnostics | None = None
    generation: Generation | None = None

    @property
    def num_listed(self) -> int:
        """How many of the documents are not negatives."""
        return len(self.docids) - self.num_negatives

    @property
    def top_tokens(self) -> int:
        """The tokens of the top docID that its score counts; the mean, rounded, of those that share the first rank."""
        counts = self.docid_tokens[: self.ranks[: self.num_listed].count(self.ranks[0])]
        return round(sum(counts) / len(counts))

    def to_json(self) -> dict[str, Any]:
        """A line of per_query.jsonl: the metrics stand between the other keys, those of free runs after the others."""
        exact_only = {metric.name for metric in METRICS if metric.exact_only}
        line: dict[str, Any] = {"query_id": self.query_id, "mode": self.mode}
        line |= {name: value for name, value in self.metrics.items() if name not in exact_only}
        for name in ("docids", "ranks", "scores", "docid_tokens", "num_negatives", "dropped_docs", "near_ties"):
            line[name] = getattr(self, name)
            if name == "ranks" and self.grades is not None:
                line["grades"] = self.grades
        if self.valid_mass_by_step is not None:  # beside the mass whose steps it has
            line |= {"valid_mass": self.metrics["valid_mass"], "valid_mass_by_step": self.valid_mass_by_step}
        line |= {name: value for name, value in self.metrics.items() if name in exact_only}
        asked = {"logprobs": self.logprobs, "diagnostics": self.diagnostics, "generation": self.generation}
        return line | {name: value for name, value in asked.items() if value is not None}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """The query of a line. Raises `ValueError` naming keys that it lacks or that do not hold what they should."""
        own = [field for field in fields(cls) if field.name != "metrics"]
        missing = sorted(field.name for field in own if field.default is MISSING and field.name not in line)
        if missing:
            raise ValueError(f"lacks {', '.join(missing)}")
        check_line(line)
        known = {field.name: line[field.name] for field in own if field.name in line}
        return cls(**known, metrics={name: value for name, value in line.items() if name not in known})


@dataclass(frozen=True, slots=True)
class References:
    """The means of the same metrics for orders that no model made, by name, in `evaluation.references`' order.

    bm25: which BM25 made its row, or why none did; None where the documents have no texts.
    """

    metrics: dict[str, dict[str, float]]
    bm25: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluatedData:
    """The data that an evaluation was made on: the name of the data set's directory, the split, and its SHA-256."""

    name: str
    split: str
    sha256: str

    @classmethod
    def of(cls, directory: str | Path, split: str) -> Self:
        """A split as it is on disk. Raises `ValueError` where it is not there."""
        return cls(Path(directory).resolve().name, split, split_sha256(directory, split))

    def __str__(self) -> str:
        """The name by which tables and figures call it."""
        return f"{self.name}/{self.split}"

    @property
    def exactly(self) -> str:
        """The name with the start of the sum, for where names may be equal and data not."""
        return f"{self} (SHA-256 {self.sha256[:12]}...)"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `reporting.report.write_report` writes.

    metrics: `num_queries`, `dropped_docs` (by truncation), the mean of each of `metrics.METRICS` over the queries that
    have it (`cvr`, `ndcg`, `recall@k`; in exact mode `valid_mass`, `free_run_ndcg` and `invalid_rate`), and
    `near_ties`, a sum. settings: how documents were scored: `mode`, `score`, `terminator`, `count_terminator`,
    `num_beams`. rows: one a query, in the split's order. data: what it was made on, where that is known. references:
    what the same metrics are for orders that no model made, where they were computed. order: what
    `order_sensitivity.order_sensitivity` found, where it was asked for.
    """

    metrics: dict[str, float | int]
    settings: dict[str, str | bool | float]
    rows: list[QueryResult]
    data: EvaluatedData | None = None
    references: References | None = None
    order: dict[str, Any] | None = None
