"""data_prep/grades.py: from grades and runs to lists, ties and irrelevant documents by hand and by trec_eval."""

from __future__ import annotations

import math

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, Qrel, ScoredDoc, nDCG

from data_prep.dropped import Dropped
from data_prep.grades import Judgement, RankRule, competition_ranks, group, known, parse_grade, rank_all, rank_run
from stoical.data.rows import parse_row


def judged(**grades: float) -> dict[str, Judgement]:
    return {document: Judgement("q", document, grade, "file:1") for document, grade in grades.items()}


def rule(irrelevant: str = "negatives", most: int = 10, above: float = 0.0) -> RankRule:
    return RankRule(above, irrelevant, most, seed=0)


def ranks(documents: list[tuple[str, int]]) -> dict[str, int]:
    return dict(zip(dict(documents), competition_ranks([level for _, level in documents]), strict=True))


def test_grades_become_competition_ranks() -> None:
    found = rule().rank(judged(a=1, b=3, c=0, d=1, e=2, f=-1, g=1), {})
    assert found is not None
    assert ranks(found.documents) == {"b": 1, "e": 2, "a": 3, "d": 3, "g": 3}
    assert found.negatives == ["c", "f"]
    last = rule("last").rank(judged(a=1, c=0, d=2, f=-1, h=0), {})
    assert last is not None
    assert (ranks(last.documents), last.negatives) == ({"d": 1, "a": 2, "c": 3, "h": 3, "f": 5}, [])


def test_what_is_relevant_is_a_setting() -> None:
    found = rule(above=1).rank(judged(a=1, b=2, c=0), {})
    assert found is not None
    assert (ranks(found.documents), found.negatives) == ({"b": 1}, ["a", "c"])
    assert rule(above=2).rank(judged(a=1, b=2, c=0), {}) is None
    everything = rule(above=-math.inf).rank(judged(a=-2.5, b=-0.5), {})
    assert everything is not None
    assert ranks(everything.documents) == {"b": 1, "a": 2}


def test_a_run_orders_the_irrelevant_and_goes_before_the_judged() -> None:
    grades, run = judged(a=1, b=2, c=0, d=0), judged(x=3.5, a=9, y=7, d=5, z=3.5)
    found = rule().rank(grades, run)
    assert found is not None
    assert (ranks(found.documents), found.negatives) == ({"b": 1, "a": 2}, ["y", "d", "x", "z", "c"])
    last = rule("last").rank(grades, run)
    assert last is not None
    assert ranks(last.documents) == {"b": 1, "a": 2, "y": 3, "d": 4, "x": 5, "z": 5, "c": 7}
    few = rule("last", most=2).rank(grades, run)
    assert few is not None
    assert (ranks(few.documents), few.not_used) == ({"b": 1, "a": 2, "y": 3, "d": 4}, 3)


def test_a_run_alone_is_the_ranking() -> None:
    assert ranks(rank_run(judged(x=3.5, a=9, y=7, z=7)).documents) == {"a": 1, "y": 2, "z": 2, "x": 4}


def test_irrelevant_documents_are_drawn_by_the_seed_and_the_query() -> None:
    grades = judged(a=1, **{f"n{n}": 0 for n in range(50)})
    found = [RankRule(0, "negatives", 5, seed).rank(grades, {}) for seed in (0, 0, 1)]
    assert all(each is not None and len(each.negatives) == 5 and each.not_used == 45 for each in found)
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("irrelevant", ["negatives", "last"])
@given(
    grades=st.dictionaries(st.sampled_from("abcdefghij"), st.integers(-1, 3), min_size=1),
    run=st.dictionaries(st.sampled_from("abcdefghijklmno"), st.integers(0, 4)),
    most=st.integers(0, 6),
)
def test_lists_are_valid_rows_that_trec_eval_calls_ideal(
    irrelevant: str, grades: dict[str, int], run: dict[str, int], most: int
) -> None:
    """Every document is in one place or counted; the row loads; nDCG of the list is 1, and its first is relevant."""
    found = rule(irrelevant, most).rank(judged(**grades), judged(**run))
    if found is None:
        assert max(grades.values()) <= 0
        return
    places = ranks(found.documents)
    assert len(places) + len(found.negatives) + found.not_used == len({*grades, *run})
    docs = [{"docid": document, "rank": rank} for document, rank in places.items()]
    off_list = [{"docid": document} for document in found.negatives]
    parse_row({"query_id": "q", "query": "q", "docs": docs, "negatives": off_list}, "here")
    qrels = [Qrel("q", document, max(0, grade)) for document, grade in grades.items()]
    scored = [ScoredDoc("q", document, -float(place)) for place, document in enumerate([*places, *found.negatives])]
    assert ir_measures.calc_aggregate([nDCG, RR], qrels, scored) == {nDCG: pytest.approx(1), RR: 1}
    for first in places:
        for second in places:
            if min(grades.get(first, 0), grades.get(second, 0)) > 0:
                assert (places[first] < places[second]) == (grades[first] > grades[second])


def test_pairs_that_come_again_and_texts_that_are_missing_are_noted() -> None:
    pairs = [("q", "a", 1), ("q", "b", 2), ("q", "a", 1), ("q", "b", 0), ("r", "a", 1), ("q", "z", 1)]
    dropped = Dropped()
    grades = group((Judgement(*pair, f"file:{line}") for line, pair in enumerate(pairs, 1)), dropped)
    assert {query: [each.where for each in its.values()] for query, its in grades.items()} == {
        "q": ["file:1", "file:2", "file:6"],
        "r": ["file:5"],
    }
    left = known(grades, {"q": None}, {"a": None, "b": None}, dropped)
    assert {query: list(its) for query, its in left.items()} == {"q": ["a", "b"]}
    assert known({"q": left["q"]}, {"q": None}, None, dropped) == left
    assert rank_all(rule(above=5), left, {}, dropped) == {}
    assert dropped.rows == [
        ("pair again", "file:3", "q a 1; first at file:1"),
        ("pair again, with another grade", "file:4", "q b 0; first at file:2"),
        ("document without text", "file:6", "z"),
        ("query without text", "file:5", "r"),
        ("query without a relevant document", "file:1", "q"),
    ]


@pytest.mark.parametrize("cell", ["x", None, "nan", "inf", "", [1]])
def test_a_grade_that_is_no_number(cell: object) -> None:
    with pytest.raises(ValueError, match="file:3: score must be a number, got "):
        parse_grade(cell, "file:3", "score")
    assert (parse_grade("2", "", ""), parse_grade(-0.5, "", "")) == (2, -0.5)
