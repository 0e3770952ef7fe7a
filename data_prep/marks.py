"""What training reads of documents and queries beside their order: weights, and a teacher's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .grades import Grades, parse_grade


@dataclass(frozen=True)
class Marks:
    """By query the weight of its row; by query and document what a document has beside its rank."""

    weights: Mapping[str, float] = field(default_factory=dict)
    documents: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)

    def of_row(self, query: str) -> dict[str, float]:
        """The keys of a query's row."""
        return {"weight": self.weights[query]} if query in self.weights else {}

    def of_document(self, query: str, document: str) -> dict[str, float]:
        """The keys of a document."""
        return dict(self.documents.get((query, document), {}))

    def of_negative(self, query: str, document: str) -> dict[str, float]:
        """The keys of a negative, which has no weight."""
        return {key: value for key, value in self.of_document(query, document).items() if key != "weight"}


def collect_marks(grades: Iterable[Grades], run: Grades, weights: Mapping[str, float]) -> Marks:
    """The marks of judgements; a document that the run retrieved has its score there as the teacher's."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for judged in (each for its in grades for own in its.values() for each in own.values()):
        marks = {"weight": judged.weight, "teacher_score": judged.teacher}
        found[judged.query, judged.document] = {key: value for key, value in marks.items() if value is not None}
    for own in run.values():
        for each in own.values():
            found.setdefault((each.query, each.document), {}).setdefault("teacher_score", each.grade)
    return Marks(weights, found)


def parse_weight(cell: Any, where: str, what: str) -> float | None:
    """The weight in a cell, None for an empty one. ValueError, naming the place, for no number or one below 0."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    weight = parse_grade(cell, where, what)
    if weight < 0:
        raise ValueError(f"{where}: {what} must not be negative, got {weight:g}; 0 leaves it out of the loss")
    return weight
