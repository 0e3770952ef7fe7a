"""Ranking losses against slow loops from their papers: value, gradient, ties, negatives, padding, order."""

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.decoding.scores import doc_scores
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import NodeOutput
from stoical.objectives.objective import StepContext
from stoical.objectives.ranking.lists import make_lists
from stoical.objectives.ranking.losses import LOSSES
from stoical.objectives.ranking.plackett_luce import order_choices, set_choices, set_probs
from stoical.objectives.ranking.policy_gradient import drawn_value
from stoical.objectives.ranking.rank_distil import by_drawing
from stoical.objectives.ranking.settings import Ranking
from stoical.objectives.ranking.term import RankingTerm
from stoical.objectives.settings import LossSettings
from tests.support import ranking_reference
from tests.support.made_up import logprobs_by_prefix, made_up_logprobs
from tests.support.packed import pack
from tests.support.random_queries import random_docids
from tests.support.tiny_model import EOS

TARGETS = LossSettings("fractional", 1.0)
WITH_GAIN = [name for name, loss in LOSSES.items() if loss.reads_gain]
GAINS = {"log": lambda y: math.log(1 + y), "linear": lambda y: y, "exponential": lambda y: 2.0**y - 1}


def random_list(
    seed: int, listed: int, negatives: int, ties: bool, weighted: bool, graded: bool = False
) -> TokenizedQuery:
    """A query of docIDs of 1 to 4 tokens, its documents in no order, perhaps with ties, weights, a teacher's scores."""
    rng = np.random.default_rng(seed)
    ids = random_docids(rng, listed + negatives)
    ranks = [1]
    for place in range(2, listed + 1):
        ranks.append(ranks[-1] if ties and rng.random() < 0.4 else place)
    teacher = rng.normal(0, 2, listed + negatives).astype(np.float32).astype(float)  # as batches hold them
    teacher[listed + negatives // 2 :] = np.nan  # negatives of other queries
    return TokenizedQuery(
        f"q{seed}",
        [1, *rng.integers(3, 60, size=rng.integers(2, 9)).tolist()],
        [str(one) for one in ids],
        ids,
        [len(one) for one in ids],
        [*(ranks[place] for place in rng.permutation(listed)), *[listed + 1] * negatives],
        num_negatives=negatives,
        weight=float(rng.integers(0, 4)) if weighted else 1.0,
        doc_weights=rng.integers(0, 4, listed).astype(float).tolist() if weighted else (),
        teacher_scores=teacher.tolist(),
        grades=[] if not graded else [None if rng.random() < 0.3 else float(g) for g in rng.integers(-1, 4, len(ids))],
    )


def as_docs(query, scores, reference, gain):
    """The query for the reference loops; scores and reference are its docIDs'."""
    found = []
    for place, rank in enumerate(query.ranks):
        negative = place >= query.num_listed
        relevance = 0 if negative else query.num_listed + 1 - rank
        if any(grade is not None for grade in query.grades):
            relevance = max(0.0, query.grades[place] or 0.0)
        weight = query.doc_weights[place] if query.doc_weights and not negative else 1.0
        found.append(
            ranking_reference.Doc(
                scores[place],
                None if negative else rank,
                GAINS[gain](relevance),
                relevance,
                weight,
                query.teacher_scores[place] if query.teacher_scores else math.nan,
                float(reference[place]),
            )
        )
    return found


def run(name, queries, logprobs, other, score="mean", temperature=1.0, gain=None, **more):
    """The term of a recipe with this loss, on node log-probabilities and those of a reference."""
    more |= {} if gain is None else {"ranking_gain": gain}
    chosen = LossSettings(
        ranking=name, normalizer="queries", ranking_score=score, ranking_temperature=temperature, **more
    )
    chosen.check()
    batch = pack(queries, TARGETS)
    context = StepContext(batch, NodeOutput(logprobs, None, None, None), 0, None, None, lambda _: _output(other))
    return RankingTerm(chosen)(context)


def _output(logprobs):
    return NodeOutput(logprobs, None, None, None)


def by_loops(name, queries, logprobs, other, score="mean", temperature=1.0, gain="log"):
    """The sum over queries of weight times loss."""
    batch = pack(queries, TARGETS)
    scores, reference = (doc_scores(batch, each, score) / temperature for each in (logprobs, other))
    total, start = torch.zeros((), dtype=torch.float64), 0
    for query in queries:
        stop = start + len(query.docids)
        docs = as_docs(query, scores[start:stop], reference.detach()[start:stop], gain)
        total, start = total + query.weight * getattr(ranking_reference, name)(docs), stop
    return total


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=3),
    ties=st.booleans(),
    weighted=st.booleans(),
    graded=st.booleans(),
    score=st.sampled_from(["mean", "sum"]),
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
    gain=st.sampled_from(list(GAINS)),
)
def test_value_and_gradient_by_loops(name, seed, sizes, ties, weighted, graded, score, temperature, gain):
    """Ragged lists, float64: the value and the gradient of every node to 1e-9."""
    queries = [random_list(seed + k, listed, more, ties, weighted, graded) for k, (listed, more) in enumerate(sizes)]
    batch = pack(queries, TARGETS)
    ours, theirs = (made_up_logprobs(batch, seed).requires_grad_() for _ in range(2))
    other, gains = made_up_logprobs(batch, seed + 1), {"gain": gain} if name in WITH_GAIN else {}
    term = run(name, queries, ours, other, score, temperature, **gains)
    expected = by_loops(name, queries, theirs, other, score, temperature, **gains)
    assert term.loss_sum.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-10)
    term.loss_sum.backward()
    gradient = torch.zeros_like(theirs)
    if expected.requires_grad:
        expected.backward()
        gradient = theirs.grad
    assert torch.allclose(ours.grad, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_extreme_scores_and_in_float32(name):
    """Scores of +-1000 nats: value and gradient are finite, also where lists are padded."""
    queries = [random_list(seed, listed, negatives, True, False) for seed, listed, negatives in ((1, 6, 2), (2, 1, 1))]
    batch = pack(queries, TARGETS)
    for factor in (1.0, 300.0):
        logprobs = (made_up_logprobs(batch).float() * factor).requires_grad_()
        term = run(name, queries, logprobs, made_up_logprobs(batch, 1).float())
        term.loss_sum.backward()
        assert term.loss_sum.dtype == torch.float32
        assert torch.isfinite(term.loss_sum)
        assert torch.isfinite(logprobs.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_sum_of_its_queries_in_any_order_of_documents(name):
    """Padding and the order in which documents stand change nothing; drawn losses are below the limit here."""
    queries = [random_list(seed, listed, 2, True, True) for seed, listed in ((1, 6), (2, 1), (3, 4))]
    values = []
    for query in queries:
        places = [*np.random.default_rng(7).permutation(query.num_listed), *range(query.num_listed, len(query.docids))]
        own = dataclasses.replace(
            query, **{k: [getattr(query, k)[p] for p in places] for k in ("docids", "docid_ids", "counted", "ranks")}
        )
        own = dataclasses.replace(
            own,
            doc_weights=[query.doc_weights[p] for p in places[: query.num_listed]],
            teacher_scores=[query.teacher_scores[p] for p in places],
        )
        values.append(run(name, [own], *(logprobs_by_prefix([own], salt) for salt in (0, 1))).loss_sum)
    together = run(name, queries, *(logprobs_by_prefix(queries, salt) for salt in (0, 1))).loss_sum
    assert together.item() == pytest.approx(sum(values).item(), rel=1e-9)


def test_names_are_the_settings_words():
    assert list(typing.get_args(Ranking)) == list(LOSSES)


def test_list_mle_by_hand():
    """Scores log 3, log 2, log 1 in this order: (3 / 6) (2 / 3) 1."""
    docs = [ranking_reference.Doc(torch.tensor(float(p)).double().log(), r) for r, p in ((1, 3), (2, 2), (3, 1))]
    assert ranking_reference.list_mle(docs).exp().item() == pytest.approx(3.0)
    query = TokenizedQuery("q", [1], ["a", "b", "c"], [[5, EOS], [6, EOS], [7, EOS]], [2, 2, 2], [1, 2, 3])
    batch = pack([query], TARGETS)
    lists = make_lists(batch, torch.tensor([3.0, 2.0, 1.0]).log())
    assert LOSSES["list_mle"].value(lists).exp().item() == pytest.approx(3.0)


def test_sets_are_a_distribution():
    """Whatever was taken first, some set was: probabilities of k documents sum to 1 while there are more than k."""
    scores = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True] * 4, [True, True, False, True]])
    probs = set_probs(set_choices(scores, real), real)
    sizes = torch.tensor([bin(number).count("1") for number in range(16)])
    for size in range(4):
        chance = probs[:, sizes == size].sum(dim=(1, 2))
        assert chance.tolist() == pytest.approx([1.0, 1.0 if size < 3 else 0.0])


def test_the_policy_gradient_is_exact_in_expectation():
    """The mean over all pairs of orders, weighted by their probability, of the drawn gradient = the exact one."""
    from itertools import permutations, product

    query = random_list(5, 3, 1, True, False)
    batch = pack([query], TARGETS)
    scores = doc_scores(batch, made_up_logprobs(batch, 3)).detach()
    exact = scores.clone().requires_grad_()
    LOSSES["policy_gradient"].value(make_lists(batch, exact)).sum().backward()
    orders = torch.tensor(list(permutations(range(4))))
    chances = order_choices(scores[None], torch.ones(1, 4, dtype=torch.bool), orders[None]).sum(dim=2).exp()[0]
    expected, value = torch.zeros_like(scores), 0.0
    for first, second in product(range(24), repeat=2):
        drawn = scores.clone().requires_grad_()
        loss = drawn_value(make_lists(batch, drawn), orders[None, [first, second]]).sum()
        loss.backward()
        expected += chances[first] * chances[second] * drawn.grad
        value += float(chances[first] * chances[second] * loss.detach())
    assert torch.allclose(expected, exact.grad, rtol=1e-9, atol=1e-12)
    assert value == pytest.approx(LOSSES["policy_gradient"].value(make_lists(batch, scores)).item(), rel=1e-9)


@pytest.mark.parametrize("name", ["policy_gradient", "rank_distil"])
def test_drawn_orders_approach_the_exact_value(name, monkeypatch):
    """4,000 orders of a list short enough to sum: within 4 standard errors, and the same whatever the batch is."""
    queries = [random_list(seed, 5, 0, False, False) for seed in (1, 2)]
    batch = pack(queries, TARGETS)
    lists = make_lists(batch, doc_scores(batch, made_up_logprobs(batch)), samples=4000)
    exact = LOSSES[name].value(lists)
    monkeypatch.setattr("stoical.objectives.ranking.plackett_luce.EXACT", 1)
    drawn = LOSSES[name].value(lists)
    assert (drawn - exact).abs().max() < 0.05 * exact.abs().max()
    alone = pack(queries[1:], TARGETS)
    own = make_lists(alone, lists.scores[1], samples=4000)
    assert LOSSES[name].value(own).item() == pytest.approx(drawn[1].item(), rel=1e-12)


def test_distilling_by_drawing_has_the_gradient_of_the_drawn_orders():
    queries = [random_list(3, 4, 0, False, False)]
    batch = pack(queries, TARGETS)
    lists = make_lists(batch, doc_scores(batch, made_up_logprobs(batch)), samples=3)
    assert torch.autograd.gradcheck(
        lambda scores: by_drawing(dataclasses.replace(lists, scores=scores)), lists.scores.clone().requires_grad_()
    )
