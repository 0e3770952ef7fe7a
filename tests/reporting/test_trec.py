"""stoical/reporting/trec.py: files that trec_eval scores as stoical does, where integer gains allow."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import ir_measures
import numpy as np
import pytest
from ir_measures import P, nDCG

from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import query_metrics
from stoical.evaluation.paper import ndcg
from stoical.evaluation.result import QueryResult
from stoical.reporting.trec import are_grades, escape, qrels_lines, run_lines, strictly_falling, write_trec
from tests.support.small_rows import make_row, result

ROW = result(
    query_id="red shoes",
    docids=["25, 36", "7", "100%"],
    ranks=[1, 2, 3],
    scores=[-2.0, -0.5, -1.0],
    num_negatives=1,
)


def test_the_lines_by_hand() -> None:
    assert list(run_lines(ROW, "tag")) == [
        "red%20shoes Q0 7 1 -0.5 tag\n",
        "red%20shoes Q0 100%25 2 -1.0 tag\n",
        "red%20shoes Q0 25,%2036 3 -2.0 tag\n",
    ]
    assert list(qrels_lines(ROW)) == [
        "red%20shoes 0 25,%2036 2\n",
        "red%20shoes 0 7 1\n",
        "red%20shoes 0 100%25 0\n",
    ]


def test_graded_documents_share_their_relevance() -> None:
    row = replace(ROW, ranks=[1, 1, 3], num_negatives=0)
    assert [line.split()[-1] for line in qrels_lines(row)] == ["3", "3", "1"]


def test_a_tie_is_listed_against_the_model() -> None:
    lines = list(run_lines(replace(ROW, scores=[-1.0, -1.0, -1.0]), "tag"))
    assert [line.split()[2] for line in lines] == ["100%25", "7", "25,%2036"]
    graded = replace(ROW, scores=[-1.0, -1.0, -1.0], grades=[1.0, 2.0, None])
    assert [line.split()[2] for line in run_lines(graded, "tag")] == ["100%25", "25,%2036", "7"], "by its grade"


def test_scores_that_tie_in_float32_are_set_apart() -> None:
    """trec_eval reads floats of 24 bits, and breaks ties by docID."""
    close = [-0.1, -0.1 - 1e-12, -0.1 - 2e-12, -7.0, -7.0]
    found = strictly_falling(close)
    assert all(isinstance(score, np.float32) for score in found)
    assert all(after < before for before, after in pairwise(found))
    assert np.allclose(found, close, rtol=3e-7)
    assert [str(score) for score in strictly_falling([-0.1, -2.0])] == ["-0.1", "-2.0"]


def test_grades_are_the_relevances_where_all_queries_have_whole_ones() -> None:
    graded = replace(ROW, grades=[3.0, None, 0.0])
    assert [line.split()[2:] for line in qrels_lines(graded, by_grade=True)] == [["25,%2036", "3"], ["100%25", "0"]]
    assert are_grades([graded])
    assert not are_grades([graded, ROW])
    assert not are_grades([replace(ROW, grades=[2.5, 1.0, 0.0])])


ODD = [*"\0\a\b\x1b\x1f\x7f\x80\x85\x9f\u200b\u200e\u2028\u2029\u202e\u2060\ufeff\v\f", "\r\n", "a\0b", "\ufeffq1"]


@pytest.mark.parametrize("text", ["a b", "a\tb\n", "100%", "%20", "a\u00a0b\u3000c", "\x1c", "é,ü", "plain", *ODD])
def test_an_escaped_text_is_one_word_and_comes_back(text: str) -> None:
    assert escape(text).split() == [escape(text)]
    assert escape(text).isprintable()
    assert unquote(escape(text)) == text
    assert escape(text) == text or not text.isascii() or not text.isalnum()


def test_half_of_a_surrogate_pair_is_written_too() -> None:
    assert escape("a\ud800") == "a%ED%A0%80"


def test_other_tools_read_odd_names(tmp_path: Path) -> None:
    """As many lines as documents, and the names that they have: whatever separates, ends or hides there."""
    row = result(
        query_id="".join(ODD), docids=ODD, ranks=[*range(1, len(ODD) + 1)], scores=[*map(float, range(len(ODD)))]
    )
    write_trec([row], tmp_path, "a\0tag")
    run, qrels = tmp_path / "run.txt", tmp_path / "qrels.txt"
    scored = list(ir_measures.read_trec_run(str(run)))
    judged = list(ir_measures.read_trec_qrels(str(qrels)))
    for read in (scored, judged):
        assert sorted(unquote(line.doc_id) for line in read) == sorted(ODD)
        assert {unquote(line.query_id) for line in read} == {"".join(ODD)}
    assert ir_measures.calc_aggregate([nDCG], judged, scored)[nDCG] < 1


@pytest.fixture
def rescored(tmp_path: Path) -> tuple[list[QueryResult], dict[str, dict]]:
    """Random rows, and what ir_measures makes of their files: query -> measure -> value."""
    random = np.random.default_rng(3)
    rows = [make_row(random, f"q {i}", int(random.integers(1, 12)), int(random.integers(0, 3))) for i in range(60)]
    write_trec(rows, tmp_path, "a tag")
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.txt")))
    measures = [nDCG, *(P(rel=rel) @ k for rel in range(1, 13) for k in (1, 2, 5))]
    found: dict[str, dict] = {}
    for metric in ir_measures.iter_calc(measures, qrels, run):
        found.setdefault(metric.query_id, {})[metric.measure] = metric.value
    return rows, found


def test_trec_eval_finds_the_same_ndcg_of_integer_gains(rescored: tuple[list[QueryResult], dict[str, dict]]) -> None:
    rows, found = rescored
    assert len(found) == len(rows)
    for row in rows:
        docs = len(row.docids) - row.num_negatives
        gains = np.array([docs - rank + 1 for rank in row.ranks[:docs]] + [0] * row.num_negatives, dtype=float)
        assert found[escape(row.query_id)][nDCG] == pytest.approx(ndcg(np.array(row.scores), gains), abs=1e-9)


def test_trec_eval_finds_the_same_recall(rescored: tuple[list[QueryResult], dict[str, dict]]) -> None:
    """R@k is the precision at k of the documents of rank at most k: those of relevance n_q - k + 1 and more."""
    rows, found = rescored
    compared = 0
    for row in rows:
        docs = len(row.docids) - row.num_negatives
        own = query_metrics(JudgedQuery(np.array(row.scores), np.array(row.ranks), row.num_negatives), (1, 2, 5))
        for k in (1, 2, 5):
            measure = P(rel=max(1, docs - k + 1)) @ k
            assert found[escape(row.query_id)][measure] == pytest.approx(own[f"recall@{k}"])
            compared += 0 < own[f"recall@{k}"] < 1
    assert compared > 20
