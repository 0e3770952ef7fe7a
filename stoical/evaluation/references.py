"""Rows that give a number meaning: the same metrics for orders of the same documents that no model made.

`random order`: the exact expectation over all orders. `input order`: as the prompts list the documents, negatives last.
`BM25`: over the documents' texts, where they have some. Documents of equal scores count in expectation over their
orders (`metrics.expected_metrics`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from stoical.common.arrays import Floats
from stoical.common.progress import progress
from stoical.data.rows import RankingRow
from stoical.encoding.prompts import shuffled
from stoical.evaluation.grading import Grading, as_grades
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import Metric, expected_metrics, mean_metrics
from stoical.evaluation.result import QueryResult, References

RANDOM, INPUT, BM25 = "random order", "input order", "BM25"
K1, B = 1.5, 0.75  # bm25s' defaults, as Lucene's BM25 but for k1 (1.2 there)
WORDS = re.compile(r"\w+")

Scorer = Callable[[RankingRow, QueryResult], Floats]


def reference_rows(
    results: Sequence[QueryResult],
    rows: Iterable[RankingRow],
    seed: int,
    cutoffs: Sequence[int],
    asked: Sequence[Metric] = (),
    grading: Grading | None = None,
    shown: bool = False,
) -> References:
    """The means over the queries of `results`, whose rows are among `rows`; `seed`: of the prompts' orders.

    shown: say how far it is.
    """
    by_id = {row.query_id: row for row in rows}
    pairs = [(by_id[result.query_id], result) for result in results]
    scorers: dict[str, Scorer] = {
        RANDOM: lambda row, result: np.zeros(len(result.docids)),
        INPUT: lambda _, result: input_scores(result, seed),
    }
    bm25 = _bm25_words(pairs)
    if bm25 is not None and installed():
        scorers[BM25] = bm25_scorer([row for row, _ in pairs])
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in scorers}
    for row, result in progress(pairs, "reference rows", shown=shown):
        for name, scorer in scorers.items():
            query = judged(result, scorer(row, result), grading or Grading())
            found[name].append(expected_metrics(query, cutoffs, asked))
    return References({name: mean_metrics(metrics) for name, metrics in found.items()}, bm25)


def judged(result: QueryResult, scores: Floats, grading: Grading) -> JudgedQuery:
    """The query of a result with other scores [D]."""
    grades = as_grades(result.grades)
    return JudgedQuery(scores, np.asarray(result.ranks), result.num_negatives, grades=grades, grading=grading)


def input_scores(result: QueryResult, seed: int) -> Floats:
    """[D] by place in the prompt, which `encoding.queries` shuffles so; negatives, which it does not hold, tie last.

    A result lists the documents as the encoder has them before it shuffles: those of one rank in an order that it drew,
    and none that did not fit.
    """
    listed = shuffled(result.docids[: result.num_listed], seed, 0, result.query_id)
    place = {docid: place for place, docid in enumerate(listed)}
    return np.array([-float(place.get(docid, len(place))) for docid in result.docids])


def installed() -> bool:
    """True where bm25s is."""
    return importlib.util.find_spec("bm25s") is not None


def _bm25_words(pairs: Sequence[tuple[RankingRow, QueryResult]]) -> str | None:
    if not any(doc.text for row, _ in pairs for doc in (*row.docs, *row.negatives)):
        return None
    if not installed():
        return "not installed: pip install bm25s"
    return f"bm25s {importlib.metadata.version('bm25s')}, k1 {K1}, b {B}"


def bm25_scorer(rows: Sequence[RankingRow]) -> Scorer:
    """Scores by BM25 over the distinct texts of the rows' documents and negatives; 0 for a document without text.

    Words are runs of letters and digits, in lower case; no word is left out or cut.
    """
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own level is DEBUG, whatever the root's is
    texts = {doc.text: None for row in rows for doc in (*row.docs, *row.negatives) if doc.text}
    place = {text: number for number, text in enumerate(texts)}
    index = bm25s.BM25(k1=K1, b=B, dtype="float64")
    index.index([words(str(text)) for text in texts], show_progress=False)

    def scores(row: RankingRow, result: QueryResult) -> Floats:
        text_of = {doc.docid: doc.text for doc in (*row.docs, *row.negatives)}
        asked = words(row.query)
        all_scores = index.get_scores(asked) if asked else np.zeros(len(place))
        own = [text_of[docid] for docid in result.docids]
        return np.array([float(all_scores[place[text]]) if text else 0.0 for text in own])

    return scores


def words(text: str) -> list[str]:
    """The words of a text."""
    return WORDS.findall(text.lower())
