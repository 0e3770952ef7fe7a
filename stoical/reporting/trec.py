"""The TREC formats, so that trec_eval, ir_measures and the like find the standard metrics themselves.

The user's own grades are the relevances in `qrels.txt`, where all queries have some and all are whole numbers, as those
tools need them. Else relevances are n_q - r + 1 for rank r of n_q documents that are not negatives, which have 0.

Those tools compare scores in float32 and break ties by docID. So scores are written in float32, and those that tie
there are set apart by its smallest steps, in the order of `judged.standard_order`: every tool finds our order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from stoical.evaluation.grading import as_grades
from stoical.evaluation.judged import relevance
from stoical.evaluation.result import QueryResult
from stoical.reporting.evaluation_dir import QRELS, RUN

UNSEEN = re.compile(r"[\s%\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def write_trec(rows: Sequence[QueryResult], directory: Path, tag: str) -> None:
    """`run.txt` and `qrels.txt` of per-query rows; `tag` names the run in its last column."""
    by_grade = are_grades(rows)
    run = (line for row in rows for line in run_lines(row, escape(tag)))
    qrels = (line for row in rows for line in qrels_lines(row, by_grade))
    (directory / RUN).write_text("".join(run), encoding="utf-8")
    (directory / QRELS).write_text("".join(qrels), encoding="utf-8")


def are_grades(rows: Iterable[QueryResult]) -> bool:
    """True where the relevances of `qrels.txt` are the user's grades."""
    known = [[grade for grade in row.grades or () if grade is not None] for row in rows]
    return all(own and all(float(grade).is_integer() for grade in own) for own in known)


def run_lines(row: QueryResult, tag: str) -> Iterator[str]:
    """`query Q0 docID rank score tag`, best first, rank from 1, scores in nats.

    Of equal scores the less relevant comes first; where documents are equally relevant, too, by docID.
    """
    levels = relevance(np.asarray(row.ranks), row.num_negatives, as_grades(row.grades))
    places = range(len(row.docids))
    order = sorted(places, key=lambda place: (-row.scores[place], levels[place], row.docids[place]))
    scores = strictly_falling([row.scores[place] for place in order])
    for rank, (place, score) in enumerate(zip(order, scores, strict=True), 1):
        yield f"{escape(row.query_id)} Q0 {escape(row.docids[place])} {rank} {score} {tag}\n"


def strictly_falling(scores: Sequence[float]) -> list[np.float32]:
    """Scores, best first, in float32, each below the one before by at least the smallest step."""
    found: list[np.float32] = []
    for score in scores:
        rounded = np.float32(score)
        if found and rounded >= found[-1]:
            rounded = np.nextafter(found[-1], np.float32(-np.inf))
        found.append(rounded)
    return found


def qrels_lines(row: QueryResult, by_grade: bool = False) -> Iterator[str]:
    """`query 0 docID relevance`: n_q - r + 1 for rank r of n_q relevant documents, 0 for negatives; or the grade.

    A document that nobody judged has no line among grades.
    """
    for place, (docid, rank) in enumerate(zip(row.docids, row.ranks, strict=True)):
        gain = row.num_listed - rank + 1 if place < row.num_listed else 0
        grade = row.grades[place] if by_grade and row.grades else float(gain)
        if grade is not None:
            yield f"{escape(row.query_id)} 0 {escape(docid)} {int(grade)}\n"


def escape(text: str) -> str:
    """Whitespace, which separates TREC's columns, what is not seen, and % as in URLs.

    `urllib.parse.unquote` gives the text back. Not seen are control characters, one of which ends a string in C, marks
    of direction and of no width, such as a byte order mark, and halves of surrogate pairs, which UTF-8 lacks.
    """
    return UNSEEN.sub(lambda found: quote(found.group(), errors="surrogatepass"), text)
