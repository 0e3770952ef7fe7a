"""ESCI's Task 1 on the judged pairs beside the checkout: imported with their grades, scored with its gains."""

from __future__ import annotations

import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import nDCG

from stoical.build.evaluator import grading_of
from stoical.config.loading import load_recipe
from stoical.data.dataset import load_split
from stoical.data.rows import RankingRow
from stoical.evaluation.metrics import asked_metrics, query_metrics
from stoical.evaluation.references import judged, reference_rows
from stoical.evaluation.result import QueryResult, References
from stoical.reporting.trec import escape, write_trec
from tests.support.commands import run
from tests.support.root import ROOT
from tests.support.small_rows import result

DATA = ROOT.parent / "shared" / "data"
SHARED = pytest.mark.skipif(not (DATA / "esci_examples.parquet").is_file(), reason="needs ../shared/data")
WORDS = ["grades=E:3,S:2,C:1,I:0", "score_column=esci_label", "document_column=product_id", "irrelevant=last"]
WORDS += ["max_irrelevant=1000", "licence=Apache-2.0"]
RECIPE = ("wordnet_ntp", "small", "esci_task1")


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> list[RankingRow]:
    """All judged lists, ids as documents: most pairs there have no title."""
    return imported(tmp_path_factory.mktemp("judged"), "text=none")


def imported(root: Path, *words: str) -> list[RankingRow]:
    out = root / "esci_task1"
    assert run("prepare", "pairs", f"input={DATA / 'esci_examples.parquet'}", *WORDS, *words, f"out={out}") == 0
    return [*load_split(out, "train"), *load_split(out, "test")]


def results(rows: list[RankingRow]) -> list[QueryResult]:
    return [
        result(
            query_id=row.query_id,
            docids=[doc.docid for doc in row.docs],
            ranks=list(row.ranks),
            grades=[doc.grade for doc in row.docs],
            scores=np.random.default_rng(place).normal(size=len(row.docs)).tolist(),
        )
        for place, row in enumerate(rows)
    ]


def references(rows: list[RankingRow]) -> References:
    recipe = load_recipe(*RECIPE)
    return reference_rows(results(rows), rows, 0, [1], asked_metrics(recipe.eval.metrics), grading_of(recipe))


@SHARED
def test_the_random_row_is_the_expectation_by_its_formula(lists: list[RankingRow]) -> None:
    """E DCG = (mean gain) x (sum of discounts), over the ideal DCG; gains 1, 0.1, 0.01 and 0."""
    gain_of = {3.0: 1.0, 2.0: 0.1, 1.0: 0.01, 0.0: 0.0}
    expected = []
    for row in lists:
        gains = [gain_of[float(str(doc.grade))] for doc in row.docs]
        discounts = [1 / math.log2(place + 1) for place in range(1, len(gains) + 1)]
        ideal = sum(gain * discount for gain, discount in zip(sorted(gains, reverse=True), discounts, strict=True))
        expected.append(sum(gains) / len(gains) * sum(discounts) / ideal)
    found = references(lists).metrics
    assert found["random order"]["graded_ndcg"] == pytest.approx(np.mean(expected))
    assert len(lists) > 850
    assert "BM25" not in found, "the documents have no texts"
    mixed = [row for row in lists if len({doc.grade for doc in row.docs}) > 1]
    assert len(mixed) > 140
    random = references(mixed).metrics["random order"]["graded_ndcg"]
    assert 0.6 < random < 0.9
    assert abs(references(mixed).metrics["input order"]["graded_ndcg"] - random) < 0.02


@SHARED
def test_trec_eval_finds_the_protocols_ndcg(lists: list[RankingRow], tmp_path: Path) -> None:
    """Query by query, of random scores; trec_eval takes whole gains, so that all are 100 times as high there."""
    rows, recipe = results(lists), load_recipe(*RECIPE)
    write_trec(rows, tmp_path, "random")
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    scored = list(ir_measures.read_trec_run(str(tmp_path / "run.txt")))
    measure = nDCG(gains={3: 100, 2: 10, 1: 1})
    theirs = {found.query_id: found.value for found in ir_measures.iter_calc([measure], qrels, scored)}
    asked, grading = asked_metrics(recipe.eval.metrics), grading_of(recipe)
    ours = {
        escape(row.query_id): query_metrics(judged(row, np.array(row.scores), grading), [], asked)["graded_ndcg"]
        for row in rows
    }
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert sum(0 < value < 1 for value in ours.values()) > 140


@SHARED
def test_bm25_over_the_titles_there_are(tmp_path: Path) -> None:
    """Where a list's judged products with a title all have one grade, every order is as good: so it is here."""
    titles = [f"documents={DATA / 'esci_products.parquet'}", "id_column=product_id", "title_column=product_title"]
    rows = imported(tmp_path, *titles)
    found = references(rows)
    assert found.bm25 is not None and found.bm25.startswith("bm25s")
    assert all(len({doc.grade for doc in row.docs}) == 1 for row in rows)
    assert found.metrics["BM25"]["graded_ndcg"] == pytest.approx(1)
    assert found.metrics["random order"]["graded_ndcg"] == pytest.approx(1)


@SHARED
def test_bm25_puts_judged_titles_before_those_of_other_queries(tmp_path: Path) -> None:
    """Not the protocol: each list is filled up to 40 titles with products judged for other queries, unjudged here."""
    titles = [f"documents={DATA / 'esci_products.parquet'}", "id_column=product_id", "title_column=product_title"]
    rows = [row for row in imported(tmp_path, *titles) if len(row.docs) < 40]
    others = [doc for row in rows for doc in row.docs]
    random, filled = np.random.default_rng(0), []
    for row in rows:
        own = {doc.docid for doc in row.docs}
        drawn = [others[place] for place in random.permutation(len(others)) if others[place].docid not in own]
        unique = {doc.docid: doc for doc in drawn}
        pool = [RankingRow.of("x", [{"docid": doc.docid, "text": doc.text}]).docs[0] for doc in unique.values()]
        filled.append(RankingRow(row.query_id, row.query, (*row.docs, *pool[: 40 - len(row.docs)])))
    found = references(filled).metrics
    assert found["random order"]["graded_ndcg"] < 0.4
    assert found["BM25"]["graded_ndcg"] > found["random order"]["graded_ndcg"] + 0.3


def test_the_overlay_is_the_protocol() -> None:
    recipe = load_recipe(*RECIPE)
    assert grading_of(recipe).gains.of(np.array([3.0, 2.0, 1.0, 0.0, math.nan])).tolist() == [1, 0.1, 0.01, 0, 0]
    assert recipe.eval.metrics == ["graded_ndcg"], "of whole lists, without a cutoff"
    assert recipe.eval.num_queries is None
