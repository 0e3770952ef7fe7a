"""evaluation/references.py: random order by hand and by drawing, the prompts' order, BM25 by its formula."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stoical.data.rows import Doc, RankingRow
from stoical.encoding.prompts import shuffled
from stoical.evaluation import references
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import asked_metrics, mean_metrics, query_metrics
from stoical.evaluation.references import bm25_scorer, input_scores, reference_rows, words
from stoical.evaluation.result import QueryResult
from tests.support.small_rows import result
from tests.support.word_encoder import encoder

TITLES = ["red running shoe", "blue shoe for running, size 7", "shoe", "red red wine", "garden chair"]
ROWS = [
    RankingRow("q1", "red shoe", tuple(Doc(f"a{i}", title, grade=3.0 - i) for i, title in enumerate(TITLES[:3]))),
    RankingRow(
        "q2", "Running, 7!", (Doc("b0", TITLES[1], grade=1.0), Doc("b1", TITLES[4], grade=0.0)), (Doc("b2", TITLES[3]),)
    ),
]


def results(rows: list[RankingRow]) -> list[QueryResult]:
    found = []
    for row in rows:
        docs = (*row.docs, *row.negatives)
        ranks = [*row.ranks, *[len(row.docs) + 1] * len(row.negatives)]
        grades = [doc.grade for doc in docs] if any(doc.grade is not None for doc in docs) else None
        own = {"docids": [doc.docid for doc in docs], "ranks": ranks, "num_negatives": len(row.negatives)}
        found.append(result(query_id=row.query_id, grades=grades, **own))
    return found


def test_random_order_by_hand() -> None:
    """q1: three documents; q2: two and a negative. One of three places each, all orders alike."""
    asked = asked_metrics(["map", "kendall_tau"])
    found = reference_rows(results(ROWS), ROWS, 0, [1, 2], asked).metrics["random order"]
    assert found["cvr"] == pytest.approx(2 / 3), "q2 alone has a negative: it is last in one order of three"
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@2"] == pytest.approx((2 / 3 + 2 / 3) / 2), "two of the gold two, each in the first two"
    mean_discount = (1 + 1 / math.log2(3) + 1 / 2) / 3
    three = mean_discount * math.log(24) / (math.log(4) + math.log(3) / math.log2(3) + math.log(2) / 2)
    two = mean_discount * math.log(6) / (math.log(3) + math.log(2) / math.log2(3))
    assert found["ndcg"] == pytest.approx((three + two) / 2)
    assert found["kendall_tau"] == 0
    assert found["map"] == pytest.approx((1 + (1 + 1 / 2 + 1 / 3) / 3) / 2), "q1: all relevant; q2: one of three"


def test_random_order_is_the_mean_of_drawn_ones() -> None:
    random, asked = np.random.default_rng(0), asked_metrics(["graded_ndcg", "graded_ndcg@2", "mrr", "precision@2"])
    drawn = []
    for _ in range(1000):
        for own in results(ROWS):
            query = references.judged(own, random.permutation(len(own.docids)).astype(float), references.Grading())
            drawn.append(query_metrics(query, [1, 2], asked))
    found = reference_rows(results(ROWS), ROWS, 0, [1, 2], asked).metrics["random order"]
    assert found == pytest.approx(mean_metrics(drawn), abs=0.03)


@pytest.mark.parametrize("seed", [0, 5])
def test_input_order_is_that_of_the_prompt(seed: int) -> None:
    """Without the documents that did not fit, and with negatives, which no prompt holds, last."""
    for row, own in zip(ROWS, results(ROWS), strict=True):
        scores = input_scores(own, seed)
        best_first = [own.docids[place] for place in np.argsort(-scores)]
        listed = [doc.docid for doc in shuffled(row.docs, seed, 0, row.query_id)]
        assert best_first == listed + [doc.docid for doc in row.negatives]
    cut = replace(results(ROWS)[0], docids=["a0", "a1"], ranks=[1, 2], grades=[3.0, 2.0])
    best_first = np.argsort(-input_scores(cut, seed))
    assert [cut.docids[place] for place in best_first] == [
        doc.docid for doc in shuffled(ROWS[0].docs[:2], seed, 0, "q1")
    ]
    found = reference_rows(results(ROWS), ROWS, seed, [1]).metrics["input order"]
    first = [shuffled(row.docs, seed, 0, row.query_id)[0].docid == row.docs[0].docid for row in ROWS]
    assert found["recall@1"] == sum(first) / 2
    assert found["cvr"] == 0


@pytest.mark.parametrize("max_length", [100, 14])
def test_input_order_of_tied_documents_is_that_of_the_prompt(max_length: int) -> None:
    """Documents of one rank come in a drawn order before the prompt shuffles them, and which are dropped is drawn."""
    tied = tuple(Doc(f"d{i}", rank=1 if i < 5 else 5) for i in range(1, 7))
    own_encoder, dropped = encoder(max_length), 0
    for number in range(20):
        row = RankingRow(f"q{number}", "deer", tied, (Doc("stone"),))
        query = own_encoder.encode(row, negatives=True)
        dropped += query.num_dropped
        own = result(query_id=row.query_id, docids=query.docids, ranks=query.ranks, num_negatives=1)
        best_first = [query.docids[place] for place in np.argsort(-input_scores(own, own_encoder.seed))]
        prompt = own_encoder.tokenizer.decode(query.prompt_ids)
        assert best_first == [*sorted(query.docids[:-1], key=prompt.index), "stone"], prompt
    assert bool(dropped) == (max_length < 100)


def test_bm25_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A program's messages go to whatever handles them, and bm25s' are of the level of a debugger's."""
    bm25_scorer(ROWS)
    assert not caplog.records


def test_bm25_by_its_formula() -> None:
    """Lucene's: idf log(1 + (N - n + 0.5) / (n + 0.5)), tf / (tf + k1 (1 - b + b length / mean length))."""
    corpus = [words(title) for title in TITLES]
    mean_length = sum(map(len, corpus)) / len(corpus)

    def score(query: str, title: str) -> float:
        total, counts = 0.0, Counter(words(title))
        for word in words(query):
            having = sum(word in other for other in corpus)
            idf = math.log(1 + (len(corpus) - having + 0.5) / (having + 0.5))
            length = 1 - 0.75 + 0.75 * len(words(title)) / mean_length
            total += idf * counts[word] / (counts[word] + 1.5 * length)
        return total

    scorer = bm25_scorer(ROWS)
    for row, own in zip(ROWS, results(ROWS), strict=True):
        expected = [score(row.query, str(doc.text)) for doc in (*row.docs, *row.negatives)]
        assert scorer(row, own).tolist() == pytest.approx(expected)
        assert any(expected)
    assert words("Running, 7! 大きい_x") == ["running", "7", "大きい_x"]


def test_equal_scores_of_bm25_count_in_expectation() -> None:
    """No word of the query is in any text, so that BM25 says nothing: it is the random order."""
    rows = [replace(row, query="zebra ?!" if row.query_id == "q1" else "...") for row in ROWS]
    found = reference_rows(results(rows), rows, 0, [1, 2], asked_metrics(["map"]))
    assert found.metrics["BM25"] == pytest.approx(found.metrics["random order"])
    assert found.bm25 is not None and found.bm25.startswith("bm25s 0.")


def test_bm25_only_over_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = [replace(row, docs=tuple(Doc(doc.docid) for doc in row.docs), negatives=()) for row in ROWS]
    found = reference_rows(results(bare), bare, 0, [1])
    assert (list(found.metrics), found.bm25) == (["random order", "input order"], None)
    some = [bare[0], ROWS[1]]
    assert "BM25" in reference_rows(results(some), some, 0, [1]).metrics
    monkeypatch.setattr(references, "installed", lambda: False)
    found = reference_rows(results(ROWS), ROWS, 0, [1])
    assert list(found.metrics) == ["random order", "input order"]
    assert found.bm25 == "not installed: pip install bm25s"


def test_the_references_have_the_columns_of_the_model() -> None:
    asked = asked_metrics(["graded_ndcg", "mrr", "map", "precision@2", "standard_recall@2", "kendall_tau"])
    for own in reference_rows(results(ROWS), ROWS, 0, [1, 2], asked).metrics.values():
        query = JudgedQuery(np.array([1.0, 0.0]), np.array([1, 2]), 1, grades=np.array([1.0, 0.0]))
        assert set(own) == set(query_metrics(query, [1, 2], asked))
