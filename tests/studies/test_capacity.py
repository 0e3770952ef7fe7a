"""studies/capacity: counts by Cover's and Skala's recurrences and by linear programs; lists in fractions.

The exact counts are met by documents in general position, whichever they are, so that random ones are a test of them.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from stoical.models.forward import node_logprobs
from stoical.studies.capacity import free_embeddings, limit, output_layer, ranker, top_lists
from stoical.studies.capacity.counts import (
    Similarity,
    distance_orders,
    dot_orders,
    exact_dimension,
    list_dimension,
    orders,
    paper_bound,
    stirling,
)

SIMILARITIES: tuple[Similarity, ...] = ("dot", "distance")


@lru_cache(None)
def cover(k: int, n: int) -> int:
    """Cover (1967): T(k, n) = T(k-1, n) + (k-1) T(k-1, n-1); two documents have two orders on a line."""
    if k == 1:
        return 1
    if n == 0:
        return 0
    return 2 if k == 2 else cover(k - 1, n) + (k - 1) * cover(k - 1, n - 1)


@lru_cache(None)
def skala(k: int, n: int) -> int:
    """Skala (2009): N_{n,2}(k) = N_{n,2}(k-1) + (k-1) N_{n-1,2}(k-1); N_0 and N(1) are 1."""
    return 1 if n == 0 or k == 1 else skala(k - 1, n) + (k - 1) * skala(k - 1, n - 1)


def linear_program(rows: np.ndarray) -> bool:
    """True where a vector has a product of at least 1 with every row: the same cone, by a solver."""
    found = linprog(np.zeros(rows.shape[1]), A_ub=-rows, b_ub=-np.ones(len(rows)), bounds=(None, None))
    return found.status == 0


def test_both_counts_by_their_recurrences() -> None:
    for k, n in itertools.product(range(1, 13), range(13)):
        assert (dot_orders(k, n), distance_orders(k, n)) == (cover(k, n), skala(k, n)), (k, n)
    assert [dot_orders(6, n) for n in range(1, 6)] == [2, 30, 172, 480, 720]
    assert [dot_orders(8, n) for n in range(1, 8)] == [2, 56, 646, 3976, 14184, 30240, 40320]
    assert [distance_orders(4, n) for n in range(4)] == [1, 7, 18, 24]
    assert stirling(4) == (1, 6, 11, 6)


def test_the_exact_dimension_is_one_less_than_the_documents_and_the_paper_s_bound_is_below() -> None:
    for k in range(2, 60):
        assert [exact_dimension(k, similarity) for similarity in SIMILARITIES] == [k - 1] * 2
        assert paper_bound(k) < k - 1
        assert k ** (2 * paper_bound(k)) == pytest.approx(math.factorial(k))
    assert paper_bound(8) == pytest.approx(math.log(40320) / (2 * math.log(8)))
    assert [list_dimension(2, m) for m in (3, 4, 5, 1000)] == [2, 3, 4, 4]


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_random_documents_have_exactly_as_many_orders(k: int, similarity: Similarity) -> None:
    random = np.random.default_rng(k)
    for n in range(1, k + 1):
        documents = random.normal(size=(k, n))
        assert free_embeddings.within_reach(documents, similarity) == orders(k, n, similarity)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_queries_make_their_orders_and_where_there_is_none_a_linear_program_agrees(similarity: Similarity) -> None:
    documents = np.random.default_rng(0).normal(size=(5, 2))
    made = 0
    for order in free_embeddings.all_orders(5):
        query = free_embeddings.query_for(documents, order, similarity)
        first, last = documents[order[:-1],], documents[order[1:],]
        if query is not None:
            scores = documents @ query if similarity == "dot" else -((documents - query) ** 2).sum(axis=1)
            assert np.argsort(-scores).tolist() == list(order)
            made += 1
        rows = first - last
        if similarity == "distance":
            rows = np.hstack([2 * rows, ((last**2) - (first**2)).sum(axis=1, keepdims=True)])
            rows = np.vstack([rows, [0, 0, 1]])
        assert linear_program(rows) == (query is not None)
    assert made == orders(5, 2, similarity)


def test_documents_that_coincide_have_no_order_and_those_on_a_line_have_the_orders_of_a_line() -> None:
    assert free_embeddings.within_reach(np.array([[1.0, 2.0], [1.0, 2.0]]), "dot") == 0
    line = np.linspace(0, 1, 4)[:, None] * np.array([[1.0, 2.0, 3.0]])
    assert free_embeddings.within_reach(line, "dot") == 2


def test_training_reaches_the_exact_count_and_never_more() -> None:
    for k, n in ((3, 1), (3, 2), (4, 2), (4, 3)):
        documents, trained = free_embeddings.train(k, n, "dot", seed=0, steps=600)
        assert trained == free_embeddings.within_reach(documents, "dot") == dot_orders(k, n)
    documents, trained = free_embeddings.train(4, 2, "distance", seed=0, steps=100)
    assert trained <= free_embeddings.within_reach(documents, "distance") == 18


def test_scores_are_the_similarities() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator)
    squared = ((queries[:, None] - documents) ** 2).sum(dim=2)
    own = (queries**2).sum(dim=1, keepdim=True)
    torch.testing.assert_close(free_embeddings.scores(queries, documents, "distance"), own - squared)
    torch.testing.assert_close(free_embeddings.scores(queries, documents, "dot"), queries @ documents.T)


@pytest.mark.parametrize(("m", "r"), [(4, 1), (6, 2), (5, 3), (3, 3)])
def test_ordered_lists_in_fractions_by_all_three_similarities(m: int, r: int) -> None:
    points = top_lists.angles(m)
    documents = [top_lists.document(point, r) for point in points]
    assert {top_lists.dot(each, each) for each in documents} == {Fraction(r)}
    assert len(set(map(tuple, documents))) == m
    for chosen in itertools.permutations(range(m), r):
        query = top_lists.query_for(points, chosen)
        assert len(query) == 2 * r
        dots = [sum(a * b for a, b in zip(query, each, strict=True)) for each in documents]
        distances = [-sum((a - b) ** 2 for a, b in zip(query, each, strict=True)) for each in documents]
        for scores in (dots, distances):
            ranked = sorted(range(m), key=lambda i: -scores[i])
            assert tuple(ranked[:r]) == chosen
            assert len({scores[i] for i in ranked[: r + 1]}) == min(r + 1, m), "no ties down to the first that is left"


def test_all_lists_are_counted() -> None:
    found = top_lists.check_lists(6, 2)
    assert (found.lists, found.made, found.dimensions) == (30, 30, 4)
    assert 0 < found.margin < 1


def test_a_moment_curve_of_one_frequency_does_not_make_pairs() -> None:
    """Two dimensions are too few for pairs: the check can fail."""
    documents = np.array([[float(part) for part in top_lists.document(point, 1)] for point in top_lists.angles(5)])
    pairs = [*itertools.combinations(range(5), 2)]
    others = [[i for i in range(5) if i not in pair] for pair in pairs]
    possible = [output_layer.can_precede(documents, p, rest) for p, rest in zip(pairs, others, strict=True)]
    assert sum(possible) == 5, "neighbours on the circle alone"
    double = np.array([[float(part) for part in top_lists.document(point, 2)] for point in top_lists.angles(5)])
    assert all(output_layer.can_precede(double, p, rest) for p, rest in zip(pairs, others, strict=True))


def test_the_ranker_s_batches_are_its_queries() -> None:
    task = ranker.make_task(4, 5)
    assert task.size == 5
    rows = torch.tensor([0, 23, 7, 7, 1])
    batch = task.batch(rows)
    assert batch.input_ids[:, 0].tolist() == [ranker.BOS] * 5
    assert torch.equal(batch.input_ids[:, 1:5] - ranker.FIRST_DOCUMENT, task.orders[rows])
    ranks = batch.doc_rank.view(5, 4)
    for row, query in enumerate(rows.tolist()):
        order = task.orders[query].tolist()
        assert ranks[row].tolist() == [1 + order.index(document) for document in range(4)]


def test_wrong_orders_are_drawn_again_up_to_their_number() -> None:
    task, generator = ranker.make_task(4, 10), torch.Generator().manual_seed(0)
    for wrong, again in ((torch.arange(0), 0), (torch.tensor([23]), 1), (torch.arange(20, 24), 4)):
        rows = task.draw(wrong, generator)
        assert rows.shape == (10,)
        assert set(rows[:again].tolist()) <= set(wrong.tolist())
    assert set(task.draw(torch.full((24,), 7), generator)[:5].tolist()) == {7}


def test_what_the_ranker_has_right_by_plain_forwards() -> None:
    model, task = ranker.small_model(3, 4, seed=1), ranker.make_task(3, 4)
    right = 0
    for order in free_embeddings.all_orders(3):
        prompt = [ranker.BOS, *(ranker.FIRST_DOCUMENT + i for i in order)]
        scores = []
        for ids in ranker.docids(3):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].double().log_softmax(dim=-1)
            scores.append(sum(float(logits[len(prompt) - 1 + step, token]) for step, token in enumerate(ids)))
        right += all(scores[a] > scores[b] for a, b in itertools.pairwise(order))
    assert len(ranker.ranked_wrong(model, task)) == 6 - right
    found = node_logprobs(model, task.batch(torch.arange(4))).logprobs
    assert found.shape == (4 * 6,)


def test_a_small_ranker_learns_every_order() -> None:
    assert ranker.train(3, 2, seed=0, steps=500, size=6)[0] == 6


def test_a_pair_too_many_is_not_solved() -> None:
    assert [limit.exact_critical_n(d) for d in (2, 3, 4)] == [3, 4, None]
    assert limit.is_solved(3, 2, seed=0, steps=500)
    assert not limit.is_solved(4, 2, seed=0, steps=300)
    assert limit.critical_n(2, seed=0, steps=300, most=6) == 3
    assert limit.critical_n(2, 0, 0, 6, solved=lambda documents, *_: documents != 5) == 4
    assert limit.published_curve(10) == pytest.approx(-10.5322 + 40.309 + 5.2 + 3.7)


def test_rank_and_contradiction() -> None:
    random = np.random.default_rng(0)
    for tokens, n in ((4, 3), (5, 7)):
        rows = random.normal(size=(tokens, n))
        assert output_layer.rank(rows) == tokens
        assert output_layer.contradiction(rows) is None
    rows = random.normal(size=(6, 3))
    assert output_layer.rank(rows) == 4
    groups = output_layer.contradiction(rows)
    assert groups is not None
    for first, last in (groups, groups[::-1]):
        assert sorted(first + last) == [*range(6)]
        assert not output_layer.can_precede(rows, first, last)
        differences = (rows[first][:, None] - rows[last]).reshape(-1, 3)
        assert not linear_program(differences)
    assert output_layer.can_precede(rows, groups[0][:1], groups[1][:1])
    square = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])  # by hand: its diagonals cross
    assert sorted(map(sorted, output_layer.contradiction(square) or ())) == [[0, 1], [2, 3]]


def test_over_a_trie_the_children_s_rank_is_enough_and_needed() -> None:
    random = np.random.default_rng(0)
    binary = output_layer.own_tokens(ranker.docids(5))
    assert binary[0] == [0, 1, 2] and binary[1] == [0, 1, 3] and binary[4] == [7, 8, 9]
    rows = random.normal(size=(10, 1))
    assert (output_layer.rank(rows), output_layer.orders_over_trie(rows, binary)) == (2, 120)
    flat = [[i] for i in range(4)]
    assert output_layer.orders_over_trie(rows, flat) < 24, "four children in one dimension"
    assert output_layer.orders_over_trie(random.normal(size=(4, 3)), flat) == 24
