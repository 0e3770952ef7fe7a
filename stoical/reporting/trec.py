"""The TREC formats, so that trec_eval, ir_measures and the like can score a run themselves.

Where scores tie, those tools order by docID; `metrics.predicted_order` lets the less relevant document win.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from stoical.evaluation.result import QueryResult
from stoical.reporting.evaluation_dir import QRELS, RUN

UNSEEN = re.compile(r"[\s%\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def write_trec(rows: Iterable[QueryResult], directory: Path, tag: str) -> None:
    """`run.txt` and `qrels.txt` of per-query rows; `tag` names the run in its last column."""
    run: list[str] = []
    qrels: list[str] = []
    for row in rows:
        run += run_lines(row, escape(tag))
        qrels += qrels_lines(row)
    (directory / RUN).write_text("".join(run), encoding="utf-8")
    (directory / QRELS).write_text("".join(qrels), encoding="utf-8")


def run_lines(row: QueryResult, tag: str) -> Iterator[str]:
    """`query Q0 docID rank score tag`, best first, rank from 1, scores in nats and in full.

    As `metrics.predicted_order`; where gold ranks are equal too, by docID.
    """
    places = range(len(row.docids))
    worse = [row.ranks[place] if place < row.num_listed else math.inf for place in places]
    order = sorted(places, key=lambda place: (-row.scores[place], -worse[place], row.docids[place]))
    for rank, place in enumerate(order, 1):
        docid = escape(row.docids[place])
        yield f"{escape(row.query_id)} Q0 {docid} {rank} {row.scores[place]!r} {tag}\n"


def qrels_lines(row: QueryResult) -> Iterator[str]:
    """`query 0 docID relevance`: n_q - r + 1 for rank r of n_q relevant documents, 0 for negatives."""
    for place, (docid, rank) in enumerate(zip(row.docids, row.ranks, strict=True)):
        gain = row.num_listed - rank + 1 if place < row.num_listed else 0
        yield f"{escape(row.query_id)} 0 {escape(docid)} {gain}\n"


def escape(text: str) -> str:
    """Whitespace, which separates TREC's columns, what is not seen, and % as in URLs.

    `urllib.parse.unquote` gives the text back. Not seen are control characters, one of which ends a string in C, marks
    of direction and of no width, such as a byte order mark, and halves of surrogate pairs, which UTF-8 lacks.
    """
    return UNSEEN.sub(lambda found: quote(found.group(), errors="surrogatepass"), text)
