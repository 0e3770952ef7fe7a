"""Walks down a trie: families, picks, sampling frequencies, and targets at every node against loops."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from stoical.decoding.walks import (
    counted,
    family_argmax,
    gold_child,
    gumbel,
    listed,
    path_sums,
    reach,
    trie_logprobs,
    valid_logmass,
    visited,
)
from stoical.trie.node_weights import UNLISTED, TargetSettings, best_ranks, node_targets
from stoical.trie.prefix_tree import build_trie
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import ragged_queries, random_query, without_negatives
from tests.support.reference import trie_target

SETTINGS = TargetSettings(token="trie", beta=2.0)


@pytest.mark.parametrize("seed", range(5))
def test_targets_at_every_node_are_the_papers(seed):
    """m(n) / m(parent), from a loop over docIDs, wherever the model may stand."""
    query = random_query(seed, docs=9)
    batch = pack([query])
    docids = [tuple(ids) for ids in query.docid_ids]
    for node in range(1, len(batch.node_token)):
        *prefix, token = prefix_of(batch, node)
        expected = trie_target(docids, query.ranks, tuple(prefix), beta=2.0)
        assert batch.node_target[node].item() == pytest.approx(expected[token], rel=1e-6)
        under = [
            rank for ids, rank in zip(docids, query.ranks, strict=True) if ids[: len(prefix) + 1] == (*prefix, token)
        ]
        assert batch.node_rank[node].item() == min(under)


def test_without_mass_the_target_is_the_best_ranked_docid():
    """Next-token prediction: one-hot everywhere, also off the top docID's path; ties of rank share."""
    trie = build_trie([[5, 1], [6, 1, 9], [6, 2, 9], [6, 3]])
    targets = node_targets(trie, np.array([1, 2, 3, 3]), TargetSettings())
    by_prefix = {
        tuple(trie.token[path[: depth + 1]].tolist()): targets[path[depth]]
        for path in trie.path
        for depth in range(len(path))
        if path[depth] >= 0
    }
    assert by_prefix == {(5,): 1, (5, 1): 1, (6,): 0, (6, 1): 1, (6, 1, 9): 1, (6, 2): 0, (6, 2, 9): 1, (6, 3): 0}
    tied = node_targets(build_trie([[5], [6, 1], [6, 2]]), np.array([1, 2, 2]), TargetSettings())
    assert tied.tolist() == [0, 1, 0, 0.5, 0.5]


@pytest.mark.parametrize(
    "settings", [SETTINGS, TargetSettings(), TargetSettings(item="stepwise"), TargetSettings("fractional", 1.0)]
)
def test_negatives_are_no_target(settings):
    """With negatives in the trie the targets are those of the trie without them, and 0 towards negatives."""
    with_negatives = random_query(3, docs=6, negatives=3)
    without = without_negatives(with_negatives)
    whole, part = pack([with_negatives], settings), pack([without], settings)
    expected = {prefix_of(part, node): part.node_target[node].item() for node in range(len(part.node_token))}
    for node in range(len(whole.node_token)):
        assert whole.node_target[node].item() == pytest.approx(expected.get(prefix_of(whole, node), 0.0))
    assert {prefix_of(whole, int(n)) for n in listed(whole).nonzero()[:, 0]} == set(expected)
    assert (whole.node_rank == UNLISTED).any()


def test_best_ranks_by_hand():
    trie = build_trie([[5, 1], [5, 2], [6]])
    assert best_ranks(trie, np.array([3, 2, 1])).tolist() == [1, 2, 1, 3, 2]


def test_trie_logprobs_are_a_distribution_in_every_family():
    batch = pack([random_query(1, docs=7, negatives=4), random_query(2, docs=1), random_query(4, docs=9)])
    logprobs = made_up_logprobs(batch).requires_grad_()
    probs = trie_logprobs(batch, logprobs).exp()
    sums = torch.zeros_like(probs).index_add(0, batch.node_parent, torch.where(batch.node_token >= 0, probs, 0.0))
    inner = torch.zeros_like(sums, dtype=torch.bool)
    inner[batch.node_parent[(batch.node_token >= 0) & listed(batch)]] = True
    assert torch.allclose(sums[inner], torch.ones_like(sums[inner]))
    assert (probs[~listed(batch)] == 0).all()
    probs[listed(batch)].log().sum().backward()
    assert logprobs.grad.isfinite().all()


def test_valid_logmass_is_stable_and_differentiable_far_down():
    """Log-probabilities of -1000: the mass is -1000 + log(children), and its gradient the children's shares."""
    batch = pack([random_query(2, docs=6)])
    logprobs = torch.where(batch.node_token >= 0, -1000.0, 0.0).double().requires_grad_()
    mass = valid_logmass(batch, logprobs)
    first = int((batch.node_depth == 1).nonzero()[0])
    siblings = int((batch.node_depth == 1).sum())
    assert mass[first].item() == pytest.approx(-1000 + math.log(siblings))
    mass[first].backward()
    assert logprobs.grad[batch.node_depth == 1].tolist() == pytest.approx([1 / siblings] * siblings)
    assert torch.autograd.gradcheck(
        lambda values: valid_logmass(batch, values), made_up_logprobs(batch).requires_grad_()
    )


def test_path_sums_add_up_to_the_docids_scores():
    batch = pack(ragged_queries())
    values = made_up_logprobs(batch)
    sums = path_sums(batch, torch.stack([values, 2 * values]))
    for path in batch.doc_path:
        nodes = path[path >= 0]
        assert sums[0, nodes[-1]].item() == pytest.approx(values[nodes].sum().item())
        assert sums[1, nodes[-1]].item() == pytest.approx(2 * values[nodes].sum().item())


def test_family_argmax_and_walks_by_loop():
    batch = pack(ragged_queries())
    values = torch.randn(3, len(batch.node_token), generator=torch.Generator().manual_seed(0))
    pick = family_argmax(batch, values)
    for walk in range(3):
        expected = set()
        for root in (batch.node_token < 0).nonzero()[:, 0].tolist():
            node = root
            while True:
                expected.add(node)
                children = [n for n in range(len(values[0])) if batch.node_parent[n] == node and n != node]
                if not children:
                    assert pick[walk, node] == -1
                    break
                node = max(children, key=lambda n: values[walk, n].item())
        assert set(visited(batch, pick)[walk].nonzero()[:, 0].tolist()) == expected


def test_equal_values_pick_the_first_child():
    batch = pack([random_query(2, docs=6)])
    pick = family_argmax(batch, torch.zeros(1, len(batch.node_token)))
    assert pick[0, 0] == (batch.node_depth == 1).nonzero()[0, 0]


def test_gold_walk_is_the_top_docids_path():
    batch = pack(ragged_queries())
    on_gold = visited(batch, gold_child(batch))[0]
    tops = batch.doc_path[batch.doc_rank == 1]
    assert set(on_gold.nonzero()[:, 0].tolist()) == {
        *tops[tops >= 0].tolist(),
        *(batch.node_token < 0).nonzero()[:, 0].tolist(),
    }


def test_sampled_walks_follow_the_constrained_probabilities():
    torch.manual_seed(0)
    batch = pack([random_query(7, docs=5)])
    logprobs = made_up_logprobs(batch)
    walks = 20_000
    seen = visited(batch, family_argmax(batch, gumbel(trie_logprobs(batch, logprobs), walks))).double().mean(dim=0)
    expected = reach(batch, logprobs)
    assert ((seen - expected).abs() < 4 * (expected * (1 - expected) / walks).sqrt() + 1e-9).all()
    assert len(Counter(expected.round(decimals=3).tolist())) > 3  # the case is no trivial one


def test_counted_nodes():
    query = random_query(5, docs=6, count_terminator=False)
    batch = pack([query])
    assert batch.node_token[counted(batch)].ne(2).all()
    assert counted(pack([random_query(5, docs=6)]))[1:].all()
