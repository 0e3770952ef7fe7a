"""stoical/metrics.py against plain loops written from section 5.1, against scikit-learn, and against hand work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from stoical.evaluation.judged import FreeRun, JudgedQuery
from stoical.evaluation.metrics import mean_metrics, metrics_among, query_metrics
from stoical.evaluation.paper import gold_gains, ndcg, predicted_order, recall_at_k, violates


def loop_order(scores: Sequence[float]) -> list[int]:
    """ "An argsort over the docIDs": repeatedly the best document left; of equals, the one further down the list."""
    left, order = list(range(len(scores))), []
    while left:
        best = left[0]
        for document in left:
            if scores[document] >= scores[best]:
                best = document
        left.remove(best)
        order.append(best)
    return order


def loop_violates(positives: Sequence[float], negatives: Sequence[float]) -> bool:
    """ "The log-probability the model assigns to any of the d+ is lower than the log-probability it assigns to d-"."""
    for positive in positives:
        for negative in negatives:
            if positive < negative:
                return True
    return False


def loop_ndcg(scores: Sequence[float], ranks: Sequence[int], num_negatives: int) -> float:
    """Gold scores log(n_q + 1) for rank 1, log(n_q) for rank 2, ..., log 2 for rank n_q, and log 1 for the negative."""
    n_q = len(scores) - num_negatives
    gold = [math.log(n_q + 2 - rank) for rank in ranks[:n_q]] + [math.log(1)] * num_negatives
    found = sum(gold[doc] / math.log2(place + 1) for place, doc in enumerate(loop_order(scores), 1))
    best = sum(gain / math.log2(place + 1) for place, gain in enumerate(sorted(gold, reverse=True), 1))
    return found / best


def loop_recall(scores: Sequence[float], ranks: Sequence[int], k: int, num_negatives: int) -> float:
    """The documents that the first k of the gold ranking and of the predicted one have in common, over k.

    Of the gold rankings that the ranks allow (ties in any order), the one that has the most in common.
    """
    relevant, predicted = range(len(scores) - num_negatives), loop_order(scores)[:k]
    size = min(k, len(relevant))
    common = []
    for gold in combinations(relevant, size):
        if max(ranks[doc] for doc in gold) <= min((ranks[doc] for doc in relevant if doc not in gold), default=99):
            common.append(len([doc for doc in gold if doc in predicted]))
    return max(common) / k


def strict_recall(scores: Sequence[float], k: int, num_negatives: int) -> float:
    """Section 5.1, where no two documents share a rank: the first k of the list, and the first k predicted."""
    gold, predicted = list(range(len(scores) - num_negatives))[:k], loop_order(scores)[:k]
    return len([doc for doc in gold if doc in predicted]) / k


@st.composite
def queries(draw: st.DrawFn, negatives: int = 3) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores out of few values (so that many tie), gold ranks (also tied), and how many negatives there are."""
    positives, num_negatives = draw(st.integers(1, 9)), draw(st.integers(0, negatives))
    value = st.one_of(st.sampled_from([-3.0, -2.0, -1.0]), st.floats(-50, 0))
    scores = draw(st.lists(value, min_size=positives + num_negatives, max_size=positives + num_negatives))
    ranks = [1]
    for place in range(2, positives + 1):
        ranks.append(draw(st.sampled_from([ranks[-1], place])))
    return np.array(scores), np.array(ranks + [positives + 1] * num_negatives), num_negatives


@settings(deadline=None)
@given(queries())
def test_each_metric_is_the_loop_of_the_text(query: tuple[np.ndarray, np.ndarray, int]) -> None:
    scores, ranks, num_negatives = query
    positives = len(scores) - num_negatives
    assert predicted_order(scores).tolist() == loop_order(scores.tolist())
    assert ndcg(scores, gold_gains(ranks, num_negatives)) == pytest.approx(loop_ndcg(scores, ranks, num_negatives))
    for k in (1, 2, 3, 5, 10):
        assert recall_at_k(scores, ranks, k, num_negatives) == pytest.approx(
            loop_recall(scores, ranks, k, num_negatives)
        )
        places = np.arange(1, len(scores) + 1)
        assert recall_at_k(scores, places, k, num_negatives) == pytest.approx(strict_recall(scores, k, num_negatives))
    if num_negatives:
        assert violates(scores, num_negatives) == loop_violates(scores[:positives], scores[positives:])


@settings(deadline=None)
@given(queries(), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_documents_that_share_a_rank(
    query: tuple[np.ndarray, np.ndarray, int], random: Random
) -> None:
    """Nor does what beam search found: the documents are listed in another order, each with its own scores."""
    scores, ranks, num_negatives = query
    beams = np.where(np.arange(len(scores)) % 3 == 0, -np.inf, scores)
    listed, negatives = range(len(scores) - num_negatives), range(len(scores) - num_negatives, len(scores))
    order = sorted(listed, key=lambda doc: (ranks[doc], random.random())) + random.sample(negatives, num_negatives)

    def judged(places: Sequence[int]) -> dict[str, float]:
        run = FreeRun(beams[places], 0.5, [0.5], greedy_is_valid=True)
        return query_metrics(JudgedQuery(scores[places], ranks[places], num_negatives, run), (1, 2, 3, 5, 10))

    assert judged(order) == pytest.approx(judged(range(len(scores))), abs=1e-12)


@settings(max_examples=1000, deadline=None)
@given(st.integers(2, 100), st.integers(0, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_ndcg_is_scikit_learns_where_no_scores_tie(positives: int, negatives: int, graded: bool, seed: int) -> None:
    """1,000 random lists; where they are graded, documents share ranks."""
    random = np.random.default_rng(seed)
    scores = -0.1 * random.permutation(positives + negatives)
    places = np.arange(1, positives + 1)
    ranks = np.maximum.accumulate(np.where(random.random(positives) < 0.5, places, 1)) if graded else places
    ranks = np.concatenate([ranks, np.full(negatives, positives + 1)])
    gains = gold_gains(ranks, negatives)
    assert ndcg(scores, gains) == pytest.approx(ndcg_score([gains], [scores]))


def test_gold_gains_are_those_of_the_text() -> None:
    three_and_a_negative = gold_gains(np.array([1, 2, 3, 4]), 1)
    np.testing.assert_allclose(three_and_a_negative, [math.log(4), math.log(3), math.log(2), 0.0])
    np.testing.assert_allclose(gold_gains(np.array([1, 1, 3]), 0), [math.log(4), math.log(4), math.log(2)])
    assert gold_gains(np.array([1, 2, 1]), 1)[2] == 0.0, "a negative gains nothing, whatever rank it is given"


def test_ndcg_by_hand() -> None:
    """d2 above d1 above the negative: DCG = ln 2 + ln 3 / log2 3 = 2 ln 2, ideal = ln 3 + ln 2 / log2 3."""
    scores, gains = np.array([-2.0, -1.0, -3.0]), gold_gains(np.array([1, 2, 3]), 1)
    ideal = math.log(3) + math.log(2) ** 2 / math.log(3)
    assert ndcg(scores, gains) == pytest.approx(2 * math.log(2) / ideal)
    assert ndcg(scores, gains) == pytest.approx(0.9026, abs=5e-5)
    assert ndcg(np.array([-1.0, -2.0, -3.0]), gains) == pytest.approx(1.0)


def test_recall_by_hand() -> None:
    scores, ranks = np.array([-5.0, -1.0, -2.0, -3.0, -4.0]), np.arange(1, 6)  # predicted: d2 d3 d4 d5 d1
    assert [recall_at_k(scores, ranks, k) for k in (1, 2, 3, 4, 5)] == [0.0, 1 / 2, 2 / 3, 3 / 4, 1.0]


@pytest.mark.parametrize(
    ("ranks", "predicted", "expected"),
    [
        ([1, 1, 3], [0, 1, 2], [1.0, 1.0, 1.0]),
        ([1, 1, 3], [1, 0, 2], [1.0, 1.0, 1.0]),
        ([1, 1, 3], [2, 1, 0], [0.0, 0.5, 1.0]),
        ([1, 2, 2], [0, 2, 1], [1.0, 1.0, 1.0]),  # one place for rank 2, and one of rank 2 in it
        ([1, 2, 2], [1, 2, 0], [0.0, 0.5, 1.0]),  # one place for rank 2, and two that would have it
        ([1, 2, 2], [1, 0, 2], [0.0, 1.0, 1.0]),
        ([1, 1, 1], [2, 0, 1], [1.0, 1.0, 1.0]),
    ],
)
def test_recall_where_documents_share_a_rank_by_hand(
    ranks: list[int], predicted: list[int], expected: list[float]
) -> None:
    scores = -np.argsort(predicted).astype(float)
    assert [recall_at_k(scores, np.array(ranks), k) for k in (1, 2, 3)] == expected
    with_one_above = np.array([*scores, 1.0])  # a negative above all takes the first place
    found = [recall_at_k(with_one_above, np.array([*ranks, 4]), k, 1) for k in (1, 2)]
    assert found == [0.0, (ranks[predicted[0]] <= ranks[1]) / 2]


def test_recall_of_a_short_list_is_over_k_all_the_same() -> None:
    ranks = np.arange(1, 5)
    assert recall_at_k(np.array([-1.0, -2.0, -3.0]), ranks[:3], 5) == 3 / 5
    assert recall_at_k(np.array([-1.0, -2.0, -3.0, -4.0]), ranks, 5, num_negatives=1) == 3 / 5, "a negative is no hit"
    assert recall_at_k(np.array([-1.0, -3.0, -2.0]), ranks[:3], 2, num_negatives=1) == 1 / 2


def test_a_violation_is_one_positive_below_one_negative() -> None:
    assert violates(np.array([-1.0, -4.0, -2.0, -3.0]), 1)
    assert not violates(np.array([-1.0, -2.0, -3.0]), 1)
    assert violates(np.array([-1.0, -2.0, -9.0, -1.5]), 2)
    assert not violates(np.array([-2.0, -2.0]), 1), "lower than, says the text: equal is no violation"


def test_ties_go_against_the_model() -> None:
    """A model that scores all documents alike has ranked nothing: it must not get the gold order for free."""
    flat = np.zeros(4)
    assert predicted_order(flat).tolist() == [3, 2, 1, 0]
    assert [recall_at_k(flat, np.arange(1, 5), k) for k in (1, 2, 3)] == [0.0, 0.0, 2 / 3]
    assert [recall_at_k(flat, np.array([1, 1, 3, 3]), k) for k in (1, 2, 3)] == [0.0, 0.0, 2 / 3]
    assert [recall_at_k(flat, np.array([1, 1, 1, 1]), k) for k in (1, 2, 3)] == [1.0, 1.0, 1.0], "all are as good"
    worst = np.array([-4.0, -3.0, -2.0, -1.0])
    gains = gold_gains(np.array([1, 2, 3, 4]), 1)
    assert ndcg(flat, gains) == ndcg(worst, gains) < 0.8
    assert predicted_order(np.array([-1.0, -2.0, -1.0])).tolist() == [2, 0, 1]


def test_a_query_has_a_cvr_only_with_a_negative() -> None:
    scores = np.array([-1.0, -2.0, -3.0])
    perfect = {"ndcg": 1.0, "recall@1": 1.0, "recall@3": 1.0}
    assert query_metrics(JudgedQuery(scores, np.array([1, 2, 3]), 0), [1, 3]) == pytest.approx(perfect)
    assert query_metrics(JudgedQuery(scores, np.array([1, 2, 3]), 1), [1, 2]) == pytest.approx(
        {"cvr": 0.0, "ndcg": 1.0, "recall@1": 1.0, "recall@2": 1.0}
    )
    assert query_metrics(JudgedQuery(scores[::-1], np.array([1, 2, 3]), 1), [1]) == {
        "cvr": 1.0,
        "ndcg": pytest.approx(loop_ndcg([-3.0, -2.0, -1.0], [1, 2, 3], 1)),
        "recall@1": 0.0,
    }


def test_means_are_over_the_queries_that_have_the_metric() -> None:
    rows = [{"cvr": 1.0, "ndcg": 0.5}, {"ndcg": 1.0}, {"cvr": 0.0, "ndcg": 0.0}]
    assert mean_metrics(rows) == {"cvr": 0.5, "ndcg": 0.5}
    assert mean_metrics(rows[1:2]) == {"ndcg": 1.0}


def test_metrics_are_found_by_name_in_the_tables_order() -> None:
    names = ["recall@10", "queries", "invalid_rate", "recall@2", "ndcg", "recall@1", "valid_mass", "cvr"]
    tables = ["cvr", "ndcg", "recall@1", "recall@2", "recall@10"]
    assert [metric.name for metric in metrics_among(names)] == [*tables, "valid_mass", "invalid_rate"]
    assert [metric.name for metric in metrics_among(names, "tables")] == tables
    assert [metric.column for metric in metrics_among(names, "bar", "comparison")] == ["CVR (↓)", "invalid (↓)"]
    (last,) = metrics_among(["recall@10"])
    assert (last.title, last.compute(JudgedQuery(np.array([-1.0]), np.array([1]), 0))) == ("R@10", 0.1)


def test_a_free_run_adds_its_metrics() -> None:
    """Beam search found the second and the first document, not the third; greedy decoding wrote none."""
    run = FreeRun(np.array([-2.0, -1.0, -np.inf]), 0.25, [0.5, 0.5], greedy_is_valid=False)
    query = JudgedQuery(np.array([-1.0, -2.0, -3.0]), np.array([1, 2, 3]), 0, run)
    found = query_metrics(query, [])
    assert list(found) == ["ndcg", "valid_mass", "free_run_ndcg", "invalid_rate"]
    assert found["ndcg"] == 1.0
    assert found["free_run_ndcg"] == pytest.approx(loop_ndcg([-2.0, -1.0, -9.0], [1, 2, 3], 0))
    assert (found["valid_mass"], found["invalid_rate"]) == (0.25, 1.0)
