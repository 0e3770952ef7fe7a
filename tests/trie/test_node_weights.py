"""Node weights: hand-worked numbers from the paper's toy trie, a loop reference on random tries, identities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.trie.node_weights import (
    TargetSettings,
    every_node_weights,
    item_weights,
    leaf_scores,
    node_weights,
    num_points,
    one_hot_weights,
    sibling_shares,
    subtree_sums,
    trie_weights,
)
from stoical.trie.prefix_tree import build_trie
from tests.support.reference import governed_mass, item_weight, trie_target

D, OG, C, AT, S, EER, F, ISH, END = range(9)
TOY = [[D, OG, END], [C, AT, END], [C, AT, S, END], [D, EER, END], [F, ISH, END]]  # ranks 1..5, Figure 2
RANKS = np.arange(1, 6)


def by_prefix(docids, weights):
    """{prefix: weight} of the nodes, by walking every docID."""
    trie = build_trie(docids)
    return {
        tuple(ids[: step + 1]): weights[trie.path[place][step]]
        for place, ids in enumerate(docids)
        for step in range(len(ids))
    }


def test_item_weights_by_hand():
    ranks = np.array([1, 2, 3, 4])
    assert item_weights(ranks, "indicator").tolist() == [1, 0, 0, 0]
    assert item_weights(ranks, "fractional", 2.0).tolist() == pytest.approx([1, 1 / 4, 1 / 9, 1 / 16])
    assert item_weights(ranks, "stepwise").tolist() == [1, 3 / 4, 2 / 4, 1 / 4]


def test_token_level_targets_by_hand():
    """beta = 1: m(d) = 1 + 1/4, m(c) = 1/2 + 1/3, m(f) = 1/5, total 137/60; below d: og 1, eer 1/4."""
    trie = build_trie(TOY)
    lam = item_weights(RANKS, "indicator")
    weights = by_prefix(TOY, trie_weights(trie, RANKS, lam, leaf_scores(RANKS, 1.0)))
    total = 137 / 60
    expected = {(D,): 1.25 / total, (C,): (5 / 6) / total, (F,): 0.2 / total, (D, OG): 0.8, (D, EER): 0.2}
    expected[(D, OG, END)] = 1.0
    assert {k: v for k, v in weights.items() if v > 0} == pytest.approx(expected)


def test_combined_targets_by_hand():
    """Appendix D at rank 5 only: its trie holds d_5 alone, so its targets are one-hot on fish."""
    trie = build_trie(TOY)
    lam = np.array([0, 0, 0, 0, 2.0])
    weights = by_prefix(TOY, trie_weights(trie, RANKS, lam, leaf_scores(RANKS, 1.0)))
    assert {k: v for k, v in weights.items() if v > 0} == pytest.approx({(F,): 2, (F, ISH): 2, (F, ISH, END): 2})


def test_combined_targets_by_hand_at_rank_four():
    """Rank 4 (deer): ranks 4 and 5 only, so at the root d has 1/4 and f 1/5 of 9/20; below d only eer."""
    trie = build_trie(TOY)
    lam = np.array([0, 0, 0, 1.0, 0])
    weights = by_prefix(TOY, trie_weights(trie, RANKS, lam, leaf_scores(RANKS, 1.0)))
    expected = {(D,): 5 / 9, (F,): 4 / 9, (D, EER): 1.0, (D, EER, END): 1.0}
    assert {k: v for k, v in weights.items() if v > 0} == pytest.approx(expected)


def test_prefix_docids_without_a_terminator():
    """ "cat" ends inside "cats": the only next token after it is s, whose target is 1 although m(cats)/m(cat) < 1."""
    docids = [[C, AT], [C, AT, S]]
    trie = build_trie(docids)
    shares = by_prefix(docids, sibling_shares(trie, subtree_sums(trie, leaf_scores(np.array([1, 2]), 1.0))))
    assert shares == pytest.approx({(C,): 1, (C, AT): 1, (C, AT, S): 1})


tries = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple)
exponents = st.sampled_from([0.5, 1.0, 2.0, 7.0, 25.0])


@settings(max_examples=150, deadline=None)
@given(tries, exponents, st.sampled_from(["indicator", "fractional", "stepwise"]), st.data())
def test_trie_weights_equal_the_loops(docids, beta, item, data):
    """Ties included, ranked 1, 1, 2 (dense) or 1, 1, 3 (competition)."""
    steps = [0, *data.draw(st.lists(st.integers(0, 1), min_size=len(docids) - 1, max_size=len(docids) - 1))]
    dense = 1 + np.cumsum(steps)
    competition = np.maximum.accumulate(np.where(np.array([1, *steps[1:]]) > 0, np.arange(1, len(docids) + 1), 1))
    ranks = competition if data.draw(st.booleans()) else dense
    keyed = [tuple(ids) for ids in docids]
    lam = item_weights(ranks, item, 2.0)
    weights = by_prefix(docids, trie_weights(build_trie(docids), ranks, lam, leaf_scores(ranks, beta)))
    expected = dict.fromkeys(weights, 0.0)
    for ids, rank in zip(keyed, ranks.tolist(), strict=True):
        for step in range(len(ids)):
            target = trie_target(keyed, ranks.tolist(), ids[:step], beta, from_rank=rank)
            for token, share in target.items():
                expected[(*ids[:step], token)] += item_weight(item, rank, len(docids), 2.0) * share
    assert weights == pytest.approx(expected, rel=1e-9, abs=1e-300)


@settings(max_examples=100, deadline=None)
@given(tries, exponents)
def test_every_node_targets(docids, beta):
    trie, ranks = build_trie(docids), np.arange(1, len(docids) + 1)
    keyed, mu = [tuple(ids) for ids in docids], leaf_scores(ranks, beta)
    shares = every_node_weights(trie, mu, "uniform")
    for node in range(trie.num_nodes):
        children = trie.children(node)
        if len(children):
            assert shares[children].sum() == pytest.approx(1)
    mass = by_prefix(docids, every_node_weights(trie, mu, "mass"))
    assert mass == pytest.approx({p: governed_mass(keyed, ranks.tolist(), p, beta, 1) for p in mass})
    assert np.array_equal(every_node_weights(trie, mu, "mass"), one_hot_weights(trie, mu))


@settings(max_examples=50, deadline=None)
@given(tries)
def test_large_beta_becomes_next_token_prediction(docids):
    """Footnote 7: as beta grows, the trie targets converge to one-hots."""
    ranks = np.arange(1, len(docids) + 1)
    trie = build_trie([[*ids, 9] for ids in docids])
    top = item_weights(ranks, "indicator")
    smoothed = trie_weights(trie, ranks, top, leaf_scores(ranks, 200.0))
    assert smoothed == pytest.approx(one_hot_weights(trie, top), abs=1e-9)


def test_settings_pick_the_row():
    trie = build_trie(TOY)
    assert np.array_equal(node_weights(trie, RANKS, TargetSettings()), one_hot_weights(trie, np.eye(5)[0]))
    row = TargetSettings(item="fractional", alpha=2.0, token="trie", beta=3.0)
    combined = trie_weights(trie, RANKS, RANKS**-2.0, RANKS**-3.0)
    assert np.array_equal(node_weights(trie, RANKS, row), combined)
    everywhere = TargetSettings(token="every_node", beta=3.0, visits="uniform")
    assert np.array_equal(node_weights(trie, RANKS, everywhere), every_node_weights(trie, RANKS**-3.0, "uniform"))


def test_points_are_the_docids_that_carry_loss():
    assert num_points(RANKS, TargetSettings()) == 1
    assert num_points(RANKS, TargetSettings(token="trie", beta=2.0)) == 1
    assert num_points(RANKS, TargetSettings(item="stepwise")) == 5
    assert num_points(RANKS, TargetSettings(token="every_node", beta=2.0, visits="mass")) == 5
