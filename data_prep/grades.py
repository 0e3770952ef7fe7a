"""From graded (query, document) pairs to ranked lists: the one rule of all importers.

A document graded above `relevant_above` is relevant. The relevant documents of a query are ranked by grade; equal
grades tie, with competition ranks (1, 1, 3). A judged document keeps its grade beside its rank.

The others are at most `max_irrelevant` a query: with `irrelevant=negatives` they are scored at evaluation only; with
`irrelevant=last` they go to the end of the list, so that the prompt holds them. A run, where there is one, says which
others come first: what it retrieved and nobody judged relevant, by its scores.
"""

from __future__ import annotations

import math
import random
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stoical.common.ids import as_id

from .dropped import Dropped

Irrelevant = Literal["negatives", "last"]
Twice = Literal["first", "best", "error"]
Grades = dict[str, dict[str, "Judgement"]]
"""Query id to document id to judgement, in file order."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The grade of a document for a query, or its score in a run (more is better), and where that stands.

    weight: how much it counts in training. teacher: another model's score of it.
    """

    query: str
    document: str
    grade: float
    where: str
    weight: float | None = None
    teacher: float | None = None


def parse_labels(words: str) -> dict[str, float]:
    """From label to grade, of words such as E:3,S:2,C:1,I:0. ValueError where they are not so."""
    labels: dict[str, float] = {}
    for word in filter(None, map(str.strip, words.split(","))):
        label, colon, grade = word.rpartition(":")
        if not (colon and label.strip()):
            raise ValueError(f"grades={words}: {word!r} is not a label and its grade, such as E:3")
        if label.strip() in labels:
            raise ValueError(f"grades={words}: {label.strip()!r} comes twice")
        labels[label.strip()] = parse_grade(grade, f"grades={words}", "a grade")
    return labels


def parse_grade(cell: Any, where: str, what: str, labels: Mapping[str, float] | None = None) -> float:
    """The number in a cell, or of the label in it. ValueError, naming the place, for another label, or no number."""
    if labels:
        label = str(cell).strip() if isinstance(cell, str | bool) else as_id(cell, where, what) or ""
        if label not in labels:
            raise ValueError(f"{where}: {what} {reprlib.repr(cell)} is none of grades= ({', '.join(labels)})")
        return labels[label]
    try:
        grade = float(cell)
    except (TypeError, ValueError, OverflowError):
        grade = math.nan
    if not math.isfinite(grade):
        is_text = isinstance(cell, str) and bool(cell.strip())
        decimal = is_text and cell.replace(",", ".").replace(".", "", 1).strip("+- ").isdigit()
        hint = "; write decimals with a point" if decimal else "; labels go with grades=LABEL:NUMBER,..." * is_text
        raise ValueError(f"{where}: {what} must be a number, got {reprlib.repr(cell)}{hint}")
    return grade


def group(judgements: Iterable[Judgement], dropped: Dropped, twice: Twice = "first") -> Grades:
    """Judgements by query and document; of a repeated pair one stays, at the first one's place, and the other is noted.

    With two grades it is the first or the best, as `twice` says. ValueError, naming both places, under `error`.
    """
    grades: Grades = {}
    for each in judgements:
        kept = grades.setdefault(each.query, {}).setdefault(each.document, each)
        if kept is each:
            continue
        again, other = "pair again", each
        if kept.grade != each.grade:
            again += ", with another grade"
            if twice == "error":
                raise ValueError(
                    f"{each.where}: {_said(each)}, but {kept.grade:g} at {kept.where}; give twice=best or first"
                )
            if twice == "best" and each.grade > kept.grade:
                grades[each.query][each.document], other = each, kept
                kept = each
        place = "first" if twice == "first" else "kept"
        dropped.add(again, other.where, f"{_said(other)}; {place} at {kept.where}")
    return grades


def _said(each: Judgement) -> str:
    return f"{each.query} {each.document} {each.grade:g}"


def known(grades: Grades, queries: Mapping[str, Any], documents: Mapping[str, Any] | None, dropped: Dropped) -> Grades:
    """Only the pairs whose query and document have a text; the others are noted. `documents` None: all are known."""
    found: Grades = {}
    for query, judged in grades.items():
        for document, each in judged.items():
            if query not in queries:
                dropped.add("query without text", each.where, query)
            elif documents is not None and document not in documents:
                dropped.add("document without text", each.where, document)
            else:
                found.setdefault(query, {})[document] = each
    return found


@dataclass(frozen=True)
class Ranked:
    """The list of a query, best first: document ids, each with a level that it shares with those it ties with, and the
    ids of its negatives. `grades`: of the judged ones. `not_used`: irrelevant documents beyond `max_irrelevant`.
    """

    documents: list[tuple[str, int]]
    negatives: list[str]
    not_used: int = 0
    grades: Mapping[str, float] = field(default_factory=dict)


def rank_run(run: Mapping[str, Judgement]) -> Ranked:
    """The list of one query by its scores in a run, where there are no grades."""
    return Ranked(levels(_by_grade(run.values())), [])


@dataclass(frozen=True)
class RankRule:
    """Which documents are relevant and in what order, as the docstring of this module says."""

    relevant_above: float
    irrelevant: Irrelevant
    max_irrelevant: int
    seed: int

    def rank(self, judged: Mapping[str, Judgement], run: Mapping[str, Judgement]) -> Ranked | None:
        """The list of one query, None if no document is relevant. `judged` and `run` are by document; no run is {}."""
        relevant = _by_grade(each for each in judged.values() if each.grade > self.relevant_above)
        if not relevant:
            return None
        taken = {each.document for each in relevant}
        retrieved = _by_grade(each for each in run.values() if each.document not in taken)
        rest = [each for each in judged.values() if each.document not in taken and each.document not in run]
        shown = retrieved[: self.max_irrelevant]
        drawn = _by_grade(self._sample(rest, self.max_irrelevant - len(shown)))
        grades = {each.document: each.grade for each in judged.values()}
        not_used = len(retrieved) + len(rest) - len(shown) - len(drawn)
        if self.irrelevant == "last":
            return Ranked(levels(relevant, shown, drawn), [], not_used, grades)
        return Ranked(levels(relevant), [each.document for each in (*shown, *drawn)], not_used, grades)

    def _sample(self, judged: Sequence[Judgement], room: int) -> list[Judgement]:
        """At most `room` of the judgements, in their order, drawn by the seed and the query."""
        if len(judged) <= room:
            return list(judged)
        places = random.Random(f"{self.seed}/{judged[0].query}").sample(range(len(judged)), room)
        return [judged[place] for place in sorted(places)]


def rank_all(rule: RankRule, grades: Grades, run: Grades, dropped: Dropped) -> dict[str, Ranked]:
    """The list of every judged query; one without a relevant document is noted and left out."""
    found = {}
    for query, judged in grades.items():
        ranked = rule.rank(judged, run.get(query, {}))
        if ranked is None:
            dropped.add("query without a relevant document", next(iter(judged.values())).where, query)
        else:
            found[query] = ranked
    return found


def _by_grade(judged: Iterable[Judgement]) -> list[Judgement]:
    return sorted(judged, key=lambda each: -each.grade)  # stable: ties stay in file order


def levels(*parts: Sequence[Judgement]) -> list[tuple[str, int]]:
    """(document, level) of parts that follow each other; within a part, sorted by grade, equal grades share a level."""
    found: list[tuple[str, int]] = []
    for part in parts:
        for place, each in enumerate(part):
            tied = place > 0 and part[place - 1].grade == each.grade
            found.append((each.document, found[-1][1] if tied else len(found)))
    return found


def competition_ranks(of_levels: Sequence[int]) -> list[int]:
    """Ranks from 1, as `stoical.data.rows` wants them (1, 1, 3), of documents with these rising levels."""
    ranks: list[int] = []
    for place, level in enumerate(of_levels):
        ranks.append(ranks[-1] if place and of_levels[place - 1] == level else place + 1)
    return ranks
