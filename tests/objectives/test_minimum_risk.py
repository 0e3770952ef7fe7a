"""Minimum risk: its list is a beam search's, its gradient the closed form, and over the whole trie it is exact."""

from __future__ import annotations

import pytest
import torch

from stoical.decoding.walks import path_sums, trie_logprobs
from stoical.encoding.tokenized import TokenizedQuery
from stoical.objectives.mitigations.minimum_risk import MinimumRisk, MinimumRiskSettings, beam_search, risk
from stoical.objectives.mitigations.rewards import docid_rewards, expected_reward, leaves
from tests.support.contexts import Context
from tests.support.made_up import made_up_logprobs
from tests.support.packed import BETA, leaf_of, pack, prefix_of
from tests.support.random_queries import ragged_queries, random_query


def path_logps(batch, seed=0):
    return path_sums(batch, trie_logprobs(batch, made_up_logprobs(batch, seed)))


def beam_by_loop(batch, totals, root, beams):
    alive, found = [root], []
    while alive:
        children = [n for n in range(len(totals)) if batch.node_parent[n] in alive and batch.node_token[n] >= 0]
        ends = [n for n in children if not (batch.node_parent == n).any()]
        found += ends
        alive = sorted(set(children) - set(ends), key=lambda n: -totals[n].item())[:beams]
    return set(sorted(found, key=lambda n: -totals[n].item())[:beams])


@pytest.mark.parametrize("beams", [1, 2, 3, 50])
def test_the_list_is_a_beam_search(beams):
    batch = pack(ragged_queries(), BETA)
    for seed in range(5):
        totals = path_logps(batch, seed)
        roots = (batch.node_token < 0).nonzero()[:, 0].tolist()
        expected = set().union(*(beam_by_loop(batch, totals, root, beams) for root in roots))
        assert set(beam_search(batch, totals, beams).nonzero()[:, 0].tolist()) == expected


def test_a_wide_beam_finds_the_best_docids_and_a_narrow_one_may_not():
    """By hand: prefix 5 (0.6) splits its mass over two docIDs, prefix 6 (0.4) has one."""
    query = TokenizedQuery("q", [1, 4], ["a", "b", "c"], [[5, 7, 2], [5, 8, 2], [6, 7, 2]], [3, 3, 3], [1, 2, 3])
    batch = pack([query], BETA)
    steps = {(5,): 0.6, (6,): 0.4, (5, 7): 0.5, (5, 8): 0.5}
    probs = [steps.get(prefix_of(batch, node), 1.0) for node in range(len(batch.node_token))]
    totals = path_sums(batch, torch.tensor(probs).log())
    leaf = leaf_of(batch).tolist()
    assert beam_search(batch, totals, 1).nonzero()[:, 0].tolist() == [leaf[0]], "0.3, though docID c has 0.4"
    assert leaf[2] in beam_search(batch, totals, 2).nonzero()[:, 0].tolist()


def test_equals_go_to_the_better_beam_as_in_beam_search():
    """Prefixes 4, 7 and 4, 8 have as much as 3, 5 and 3, 6, and come later; 4 alone has more than 3."""
    docids = [[4, 7, 2], [3, 6, 2], [3, 5, 2], [4, 8, 2]]
    batch = pack([TokenizedQuery("q", [1], list("abcd"), docids, [3] * 4, [1, 2, 3, 4])], BETA)
    steps = torch.where(batch.node_token >= 0, -1.0, 0.0)
    steps[batch.node_token == 4], steps[batch.node_token >= 7] = -0.5, -1.5
    found = beam_search(batch, path_sums(batch, steps), 2).nonzero()[:, 0].tolist()
    assert found == sorted(leaf_of(batch)[[0, 3]].tolist())


def test_negatives_are_never_on_the_list():
    batch = pack([random_query(1, docs=4, negatives=5)], BETA)
    listed = batch.node_rank < batch.node_rank.max()
    assert not beam_search(batch, path_logps(batch), 50)[~listed].any()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_gradient_is_the_closed_form(alpha):
    """dL / d log p~(d) = alpha Q(d) (risk(d) - L), which sums to 0 over the list; L does not see its constant."""
    batch = pack(ragged_queries(), BETA)
    totals = path_logps(batch).requires_grad_()
    candidates = beam_search(batch, totals, 3)
    risks = 1 - docid_rewards(batch, "gain").double()
    value = risk(batch, totals, candidates, risks, alpha)
    value.sum().backward()
    for query in range(3):
        nodes = (candidates & (batch.node_row == query)).nonzero()[:, 0]
        share = (alpha * totals.detach()[nodes]).softmax(dim=0)
        assert value[query].item() == pytest.approx((share * risks[nodes]).sum().item(), rel=1e-12)
        closed_form = alpha * share * (risks[nodes] - value[query].detach())
        assert torch.allclose(totals.grad[nodes], closed_form, rtol=1e-9, atol=1e-14)
        assert abs(totals.grad[nodes].sum().item()) < 1e-12
    assert (totals.grad[~candidates] == 0).all()
    shifted = path_logps(batch).requires_grad_()
    risk(batch, shifted, candidates, risks + 7, alpha).sum().backward()
    assert torch.allclose(shifted.grad, totals.grad, atol=1e-12)


def test_a_list_of_one_teaches_nothing_and_a_far_tail_stays_finite():
    batch = pack([random_query(2, docs=1), random_query(3, docs=1)], BETA)
    totals = path_logps(batch).requires_grad_()
    risk(batch, totals, leaves(batch), 1 - docid_rewards(batch, "gain").double(), 1.0).sum().backward()
    assert (totals.grad == 0).all()
    batch = pack(ragged_queries(), BETA)
    far = (path_logps(batch) * 1000).requires_grad_()
    risk(batch, far, leaves(batch), 1 - docid_rewards(batch, "gain").double(), 1.0).sum().backward()
    assert far.grad.isfinite().all()


def test_over_the_whole_trie_the_risk_is_one_minus_the_expected_reward():
    """Value and gradient, with alpha = 1 and a list as long as the trie."""
    batch = pack(ragged_queries(), BETA)
    rewards = docid_rewards(batch, "target").double()
    whole, exact = (made_up_logprobs(batch).requires_grad_() for _ in range(2))
    output = MinimumRisk(MinimumRiskSettings(beams=50))(Context(batch, whole, step=0))
    expected = (1 - expected_reward(batch, exact, rewards)).sum()
    assert output.loss_sum.item() == pytest.approx(expected.item(), rel=1e-6)
    assert output.logs["candidate_mass"] == pytest.approx(1.0)
    output.loss_sum.backward()
    expected.backward()
    assert torch.allclose(whole.grad, exact.grad, rtol=1e-5, atol=1e-8)
    assert exact.grad.abs().max() > 1e-2


def test_the_best_ranked_docid_is_always_on_the_list():
    """A model that gives it next to nothing would else have nothing to learn from."""
    batch = pack([random_query(1, docs=6)], BETA)
    gold = leaf_of(batch)[0]
    logprobs = made_up_logprobs(batch)
    logprobs[batch.doc_path[0, 0]] -= 20
    logprobs.requires_grad_()
    assert not beam_search(batch, path_sums(batch, trie_logprobs(batch, logprobs)).detach(), 1)[gold]
    output = MinimumRisk(MinimumRiskSettings(beams=1, alpha=0.01))(Context(batch, logprobs, step=0))
    output.loss_sum.backward()
    assert logprobs.grad[batch.doc_path[0, 0]] < 0
