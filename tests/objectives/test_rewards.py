"""Rewards of docIDs, and their expectation over the trie with its gradient, against loops over docIDs."""

from __future__ import annotations

import numpy as np
import pytest

from stoical.evaluation.paper import gold_gains
from stoical.objectives.mitigations.rewards import best_below, docid_rewards, expected_reward, leaves
from stoical.trie.node_weights import TargetSettings, item_weights
from tests.support.made_up import made_up_logprobs
from tests.support.packed import BETA, leaf_of, pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.reference import docid_probs


def below(batch, node):
    """The docIDs (places in the batch) at or below a node."""
    on_path = (batch.doc_path == node).any(dim=1)
    root = batch.node_token[node] < 0
    return (on_path | (root & (batch.doc_query == batch.node_row[node]))).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("settings", "score"),
    [
        (BETA, lambda r: r**-2.0),
        (TargetSettings(token="every_node", beta=0.5, visits="uniform"), lambda r: r**-0.5),
        (TargetSettings(), lambda r: float(r == 1)),
        (TargetSettings("fractional", 3.0), lambda r: r**-3.0),
    ],
)
def test_target_reward_is_the_recipes_score_over_that_of_rank_one(settings, score):
    batch = pack(ragged_queries(), settings)
    rewards = docid_rewards(batch, "target")
    for leaf, rank in zip(leaf_of(batch).tolist(), batch.doc_rank.tolist(), strict=True):
        assert rewards[leaf].item() == pytest.approx(score(rank), rel=1e-5, abs=1e-9)
    assert set(rewards.nonzero()[:, 0].tolist()) <= set(leaf_of(batch).tolist())


def test_stepwise_reward_depends_on_the_querys_own_length():
    batch = pack(ragged_queries(), TargetSettings("stepwise"))
    rewards = docid_rewards(batch, "target")
    for query in range(3):
        docs = batch.doc_query == query
        expected = item_weights(batch.doc_rank[docs].numpy(), "stepwise")
        assert rewards[leaf_of(batch)[docs]].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_gain_reward_is_that_of_ndcg():
    batch = pack([random_query(1, docs=6, negatives=3), random_query(2, docs=1), random_query(3, docs=9)], BETA)
    rewards = docid_rewards(batch, "gain")[leaf_of(batch)]
    for query, negatives in ((0, 3), (1, 0), (2, 0)):
        docs = batch.doc_query == query
        gains = gold_gains(batch.doc_rank[docs].numpy(), negatives)
        assert rewards[docs].tolist() == pytest.approx((gains / gains.max()).tolist(), rel=1e-6)


@pytest.mark.parametrize("kind", ["target", "gain", "prefix_credit"])
def test_rewards_lie_between_0_and_1_and_negatives_earn_nothing(kind):
    batch = pack([random_query(1, docs=6, negatives=4), random_query(2, docs=1), random_query(4, docs=9)], BETA)
    rewards = docid_rewards(batch, kind)
    leaf = leaf_of(batch)
    assert (rewards[leaf[batch.doc_negative]] == 0).all()
    assert (rewards[leaf[batch.doc_rank == 1]] == 1).all()
    assert ((rewards >= 0) & (rewards <= 1)).all()
    assert leaves(batch).nonzero()[:, 0].tolist() == sorted(leaf[~batch.doc_negative].tolist())


def test_tied_best_docids_earn_the_same():
    query = random_query(5, docs=4)
    tied = type(query)(**{name: getattr(query, name) for name in query.__slots__} | {"ranks": [1, 1, 3, 4]})
    batch = pack([tied], BETA)
    assert docid_rewards(batch, "target")[leaf_of(batch)].tolist() == pytest.approx([1, 1, 1 / 9, 1 / 16], rel=1e-5)


def test_best_below_and_prefix_credit_by_loop():
    batch = pack(ragged_queries(), BETA)
    leaf, rewards = leaf_of(batch), docid_rewards(batch, "target")
    best, credit = best_below(batch, rewards), docid_rewards(batch, "prefix_credit")
    for node in range(len(rewards)):
        assert best[node].item() == max(rewards[leaf[doc]].item() for doc in below(batch, node))
    for doc, path in enumerate(batch.doc_path):
        promised = [max(rewards[leaf[d]].item() for d in below(batch, n)) for n in path[path >= 0].tolist()]
        assert credit[leaf[doc]].item() == pytest.approx(np.mean(promised), rel=1e-5)


def test_expected_reward_and_its_gradient_are_exact():
    """J = sum_d p~(d) R(d), and dJ/dz_n = reach(n) (V(n) - V(parent)) for V(n) = the mean reward below n."""
    batch = pack([random_query(seed, docs=docs) for seed, docs in ((1, 6), (2, 1), (3, 11))], BETA)
    logprobs, rewards = made_up_logprobs(batch).requires_grad_(), docid_rewards(batch, "target").double()
    expected = expected_reward(batch, logprobs, rewards)
    probs = docid_probs(batch, logprobs.detach())
    worth = probs * rewards[leaf_of(batch)]
    for query in range(3):
        assert expected[query].item() == pytest.approx(worth[batch.doc_query == query].sum().item(), rel=1e-12)
    expected.sum().backward()
    for node in (batch.node_token >= 0).nonzero()[:, 0].tolist():
        docs, above = below(batch, node), below(batch, int(batch.node_parent[node]))
        reach, value = probs[docs].sum(), worth[docs].sum() / probs[docs].sum()
        closed_form = reach * (value - worth[above].sum() / probs[above].sum())
        assert logprobs.grad[node].item() == pytest.approx(closed_form.item(), rel=1e-9, abs=1e-12)


def test_negatives_in_the_trie_change_neither_value_nor_gradient_of_the_others():
    batch = pack([random_query(3, docs=6, negatives=4)], BETA)
    logprobs = made_up_logprobs(batch).requires_grad_()
    expected_reward(batch, logprobs, docid_rewards(batch, "gain").double()).sum().backward()
    listed = batch.node_rank < batch.node_rank.max()
    assert logprobs.grad.isfinite().all()
    assert (logprobs.grad[~listed] == 0).all()
    assert logprobs.grad[listed].abs().max() > 1e-3
