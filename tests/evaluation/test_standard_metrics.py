"""evaluation/standard.py and tie_orders.py: against trec_eval's code, loops, and every order of equal scores."""

from __future__ import annotations

import math
import re
from itertools import permutations
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, nDCG

from stoical.evaluation.grading import Gains, Grading
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import asked_metrics, expected_metrics, mean_metrics, query_metrics
from stoical.evaluation.result import QueryResult
from stoical.reporting.trec import escape, write_trec
from tests.support.small_rows import result

KS = (1, 2, 3, 5, 10)
NAMES = ["graded_ndcg", "mrr", "map", "kendall_tau"]
NAMES += [f"{name}@{k}" for name in ("graded_ndcg", "precision", "standard_recall") for k in KS]
ASKED = asked_metrics(NAMES)


def random_query(random: np.random.Generator, most: int = 8, graded: bool = True, grading: Grading | None = None):
    """Few scores and few grades, so that many tie; some documents without a grade, some negatives."""
    docs, negatives = int(random.integers(1, most)), int(random.integers(0, 3))
    scores = random.choice([-1.0, -2.0, -2.5, -4.0], size=docs + negatives)
    starts = np.maximum.accumulate(np.where(random.random(docs) < 0.6, np.arange(1, docs + 1), 1))
    ranks = np.concatenate([starts, np.full(negatives, docs + 1)])
    grades = random.choice([0.0, 1.0, 2.0, 3.0, math.nan], size=docs + negatives) if graded else None
    if grades is not None and np.isnan(grades).all():
        grades[0] = 2.0
    return JudgedQuery(scores, ranks, negatives, grades=grades, grading=grading or Grading())


def as_result(query: JudgedQuery, query_id: str) -> QueryResult:
    grades = None if query.grades is None else [None if math.isnan(grade) else grade for grade in query.grades.tolist()]
    docids = [f"{query_id} d{place}" for place in range(len(query.scores))]
    np.random.default_rng(len(docids)).shuffle(docids)  # or names would follow the list
    return result(
        query_id=query_id,
        docids=docids,
        ranks=query.ranks.tolist(),
        scores=query.scores.tolist(),
        grades=grades,
        num_negatives=query.num_negatives,
    )


GAINS = {
    "linear": {},
    "exponential": {"gains": {grade: 2**grade - 1 for grade in range(4)}},
    "3:1,2:0.1,1:0.01,0:0": {"gains": {3: 100, 2: 10, 1: 1, 0: 0}},  # whole numbers, in the same proportions
}


@pytest.mark.parametrize("above", [0.0, 1.0])
@pytest.mark.parametrize("gains", GAINS)
def test_ir_measures_finds_the_same_in_our_files(gains: str, above: float, tmp_path: Path) -> None:
    """Query by query and in the mean: ties of scores, documents that nobody judged, queries without a relevant one."""
    random, grading = np.random.default_rng(7), Grading(Gains.parse(gains), above)
    queries = {f"q {i}": random_query(random, grading=grading) for i in range(80)}
    write_trec([as_result(query, name) for name, query in queries.items()], tmp_path, "tag")
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.txt")))
    rel = int(above) + 1
    theirs = {"graded_ndcg": nDCG(**GAINS[gains]), "mrr": RR(rel=rel), "map": AP(rel=rel)}
    for k in KS:
        theirs |= {f"graded_ndcg@{k}": nDCG(**GAINS[gains]) @ k}
        theirs |= {f"precision@{k}": P(rel=rel) @ k, f"standard_recall@{k}": R(rel=rel) @ k}
    ours = {escape(name): query_metrics(query, [], ASKED) for name, query in queries.items()}
    names = {measure: name for name, measure in theirs.items()}
    compared = 0
    for found in ir_measures.iter_calc(list(names), qrels, run):
        assert ours[found.query_id][names[found.measure]] == pytest.approx(found.value, abs=1e-9), found
        compared += 0 < found.value < 1
    assert compared > 400
    means = mean_metrics(ours.values())
    for measure, value in ir_measures.calc_aggregate(list(names), qrels, run).items():
        assert means[names[measure]] == pytest.approx(value, abs=1e-9)


def test_without_grades_the_listed_documents_are_relevant(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    queries = {f"q{i}": random_query(random, graded=False) for i in range(40)}
    write_trec([as_result(query, name) for name, query in queries.items()], tmp_path, "tag")
    qrels, run = tmp_path / "qrels.txt", tmp_path / "run.txt"
    asked = asked_metrics(["mrr", "map", "precision@2", "standard_recall@2"])
    ours = mean_metrics(query_metrics(query, [], asked) for query in queries.values())
    theirs = ir_measures.calc_aggregate(
        [RR, AP, P @ 2, R @ 2], ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(run))
    )
    for name, measure in {"mrr": RR, "map": AP, "precision@2": P @ 2, "standard_recall@2": R @ 2}.items():
        assert ours[name] == pytest.approx(theirs[measure], abs=1e-9)
        assert 0 < ours[name] < 1


@pytest.mark.parametrize("graded", [True, False])
def test_expectations_are_means_over_every_order_of_equal_scores(graded: bool) -> None:
    """Each order made strict by small steps; Kendall's tau has its own rule for ties, and CVR counts them here."""
    random = np.random.default_rng(9)
    asked = asked_metrics([name for name in NAMES if name != "kendall_tau" and (graded or "graded" not in name)])
    tied = 0
    for _ in range(60):
        query = random_query(random, most=4, graded=graded)
        orders = []
        for shifts in permutations(range(len(query.scores))):
            moved = query.scores - 1e-3 * np.array(shifts)
            orders.append(query_metrics(replaced(query, moved), KS, asked))
        expected = mean_metrics(orders)
        found = expected_metrics(query, KS, asked)
        assert found == pytest.approx(expected, abs=1e-12)
        worst = query_metrics(query, KS, asked)
        tied += worst["ndcg"] < found["ndcg"] - 1e-9
        assert all(worst[name] <= value + 1e-12 for name, value in found.items() if name != "cvr")
    assert tied > 10


def replaced(query: JudgedQuery, scores: np.ndarray) -> JudgedQuery:
    return JudgedQuery(scores, query.ranks, query.num_negatives, grades=query.grades, grading=query.grading)


def test_kendalls_tau_is_the_loop_over_pairs() -> None:
    (tau,) = asked_metrics(["kendall_tau"])
    random, seen = np.random.default_rng(10), set()
    for _ in range(60):
        query = random_query(random)
        ranks = query.ranks.copy()
        agree = scored = ranked = 0
        for i in range(len(ranks)):
            for j in range(i):
                score, rank = np.sign(query.scores[i] - query.scores[j]), np.sign(ranks[j] - ranks[i])
                agree, scored, ranked = agree + score * rank, scored + abs(score), ranked + abs(rank)
        expected = None if not ranked else agree / math.sqrt(scored * ranked) if scored else 0.0
        found = tau.compute(query)
        assert found == (None if expected is None else pytest.approx(expected))
        seen.add(None if found is None else np.sign(found))
    assert seen == {None, -1.0, 0.0, 1.0}


def test_the_metrics_by_hand() -> None:
    """Predicted: grades 0, 3, -, 1 (nobody judged the third)."""
    query = JudgedQuery(np.array([-2.0, -4.0, -1.0, -3.0]), np.array([1, 2, 3, 4]), 0)
    query = JudgedQuery(query.scores, query.ranks, 0, grades=np.array([3.0, 1.0, 0.0, math.nan]))
    found = query_metrics(query, [], asked_metrics(NAMES))
    ideal = 3 + 1 / math.log2(3)
    assert found["graded_ndcg"] == pytest.approx((3 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found["graded_ndcg@2"] == pytest.approx(3 / math.log2(3) / ideal)
    assert found["graded_ndcg@1"] == 0
    assert (found["mrr"], found["map"]) == (1 / 2, (1 / 2 + 2 / 4) / 2)
    assert (found["precision@2"], found["precision@5"]) == (1 / 2, 2 / 5)
    assert (found["standard_recall@2"], found["standard_recall@5"]) == (1 / 2, 1)
    assert found["kendall_tau"] == pytest.approx(0), "pairs d1d2, d1d4, d3d4 right; d1d3, d2d3, d2d4 wrong"


@pytest.mark.parametrize(("words", "expected"), [("linear", [3, 1, 0, 0, 0]), ("exponential", [7, 1, 0, 0, 0])])
def test_gains_by_hand(words: str, expected: list[float]) -> None:
    assert Gains.parse(words).of(np.array([3.0, 1.0, 0.0, -2.0, math.nan])).tolist() == expected


def test_a_table_of_gains() -> None:
    gains = Gains.parse("0:0, 1:0.01,2:0.1,3:1")
    assert gains.of(np.array([3.0, 1.0, math.nan, 0.0, 2.0])).tolist() == [1.0, 0.01, 0.0, 0.0, 0.1]
    with pytest.raises(ValueError, match=r"grade 4 is none of those that eval\.gains=.* names \(0, 1, 2, 3\); add it"):
        gains.of(np.array([3.0, 4.0]))


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "logarithmic": "eval.gains=logarithmic: 'logarithmic' is not a grade and its gain; give linear, exponential",
        "61": "such as 3:1,2:0.1,1:0.01,0:0 (YAML reads one pair alone, such as 1:1, as a number: add 0:0)",
        "3:1,2": "'2' is not a grade and its gain",
        "3:1,x:2": "'x:2' is not a grade and its gain",
        "3:1,3:2": "names grade 3 twice",
        "3:1,2:-1": "'2:-1' is not a grade and a finite gain",
        "3:nan": "'3:nan' is not a grade and a finite gain",
        "1:0,2:0": "gives no grade a gain above 0",
        "3:0.01,2:0.1": "gives grade 3 less than grade 2; more is better",
    }.items(),
)
def test_bad_gains(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Gains.parse(words)


def test_a_grade_too_high_for_a_power_of_two() -> None:
    with pytest.raises(ValueError, match=r"grade 5000 is too high for eval\.gains=exponential"):
        Gains.parse("exponential").of(np.array([5000.0]))


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "nDCG@10": "metric 'eval.metrics=nDCG@10' does not exist. Did you mean 'graded_ndcg'?",
        "AP": "Did you mean 'map'?",
        "R@5": "Did you mean 'standard_recall@K'?",
        "precision": "Did you mean 'precision@K'? Use any of graded_ndcg, graded_ndcg@K, mrr, map",
        "map@3": "Did you mean 'map'?",
        "recall@5": "recall@5 is one of the paper's metrics, which are always there (cutoffs: eval.recall_at)",
        "cvr": "eval.metrics: cvr is one of the paper's",
        "precision@0": "eval.metrics: precision@0 must have a whole number from 1 after the @, such as precision@10",
        "graded_ndcg@": "graded_ndcg@ must have a whole number from 1",
        "graded_ndcg@x": "graded_ndcg@x must have a whole number from 1",
    }.items(),
)
def test_unknown_metrics(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        asked_metrics(["map", name])


def test_standard_metrics_are_computed_where_asked_for_alone() -> None:
    query = random_query(np.random.default_rng(0))
    assert not set(query_metrics(query, KS)) & set(NAMES)
    assert list(query_metrics(query, [1], asked_metrics(["map", "graded_ndcg@3", "graded_ndcg"])))[-3:] == [
        *("graded_ndcg", "graded_ndcg@3", "map")
    ]
