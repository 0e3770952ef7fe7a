"""Loss parts as pure functions: closed forms, gradients, and what divides the sum."""

from __future__ import annotations

import pytest
import torch

from stoical.decoding.scores import doc_scores, valid_mass
from stoical.decoding.walks import reach, valid_logmass
from stoical.objectives.objective import normalizer, weighted_nll
from stoical.trie.node_weights import TargetSettings
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries, random_query

FRACTIONAL = TargetSettings(item="fractional", alpha=2.0)


def test_loss_is_the_weighted_sum_and_so_is_its_gradient():
    logprobs = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    loss = weighted_nll(logprobs, weights)
    loss.backward()
    assert loss.item() == 0.5 * 1 + 2 * 3
    assert logprobs.grad.tolist() == [-0.5, 0.0, -2.0]
    assert torch.autograd.gradcheck(lambda values: weighted_nll(values, weights), logprobs)


def test_normalizers_by_hand():
    """Queries of 6, 1 and 11 docIDs: 3 queries, 18 points under 1/r^2, 3 under the indicator."""
    batch = pack(ragged_queries(), FRACTIONAL)
    assert normalizer(batch, "queries").item() == 3
    assert normalizer(batch, "points").item() == 18
    assert normalizer(pack(ragged_queries(), TargetSettings()), "points").item() == 3
    expected = sum(len(ids) / rank**2 for q in ragged_queries() for ids, rank in zip(q.docid_ids, q.ranks, strict=True))
    assert normalizer(batch, "weights").item() == pytest.approx(expected, rel=1e-6)


def test_valid_logmass_sums_over_siblings():
    batch = pack(ragged_queries(), FRACTIONAL)
    logprobs = made_up_logprobs(batch)
    mass = valid_logmass(batch, logprobs)
    for node in range(len(logprobs)):
        if batch.node_token[node] >= 0:
            family = (batch.node_parent == batch.node_parent[node]) & (batch.node_token >= 0)
            assert mass[node].item() == pytest.approx(logprobs[family].exp().sum().log().item(), abs=1e-12)


def test_reach_is_a_product_of_renormalised_steps():
    batch = pack(ragged_queries(), FRACTIONAL)
    logprobs = made_up_logprobs(batch)
    visits, steps = reach(batch, logprobs), (logprobs - valid_logmass(batch, logprobs)).exp()
    for node in range(len(logprobs)):
        product, walker = 1.0, node
        while batch.node_token[walker] >= 0:
            product, walker = product * steps[walker].item(), int(batch.node_parent[walker])
        assert visits[node].item() == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("count_terminator", [True, False])
def test_doc_scores_by_hand(count_terminator):
    queries = ragged_queries(count_terminator=count_terminator)
    batch = pack(queries, FRACTIONAL)
    logprobs = made_up_logprobs(batch)
    sums, means = doc_scores(batch, logprobs, "sum"), doc_scores(batch, logprobs, "mean")
    place = 0
    for query in queries:
        for ids in query.docid_ids:
            counted = ids if count_terminator else ids[:-1]
            path = batch.doc_path[place][batch.doc_path[place] >= 0]
            assert batch.node_token[path].tolist() == counted
            assert sums[place].item() == pytest.approx(logprobs[path].sum().item())
            assert means[place].item() == pytest.approx(logprobs[path].sum().item() / len(counted))
            place += 1
    assert place == len(sums)


def test_valid_mass_leaves_negatives_out():
    batch = pack([random_query(1, docs=4, negatives=2), random_query(2, docs=3)], FRACTIONAL)
    logprobs = made_up_logprobs(batch)
    sums = doc_scores(batch, logprobs, "sum").exp()
    expected = [sums[:4].sum().item(), sums[6:].sum().item()]
    assert valid_mass(batch, logprobs).tolist() == pytest.approx(expected, rel=1e-6)


def test_an_uncounted_terminator_carries_no_loss():
    for query in ragged_queries(count_terminator=False):
        batch = pack([query], FRACTIONAL)
        ends = batch.node_token == 2
        assert ends.any()
        assert (batch.node_weights[ends] == 0).all()
        assert (batch.node_weights[~ends & (batch.node_token >= 0)] > 0).all()
