"""Distillation: against sums over docIDs written out in float64, sampled estimators, and the loss it has as one end."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.config.loading import load_recipe
from stoical.decoding.walks import family_argmax, gumbel, listed, trie_logprobs, visited
from stoical.objectives.mitigations.distillation import (
    Distillation,
    DistillationSettings,
    divergence_terms,
    docid_divergence,
    invalid_nats,
    visited_divergence,
)
from stoical.objectives.mitigations.reinforce import policy_loss
from stoical.objectives.objective import loss_weights, weighted_nll
from stoical.trie.node_weights import TargetSettings
from tests.support.contexts import Context
from tests.support.made_up import made_up_logprobs
from tests.support.packed import leaf_of, pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.reference import docid_probs

SEEDS = range(20)


def target_of(batch):
    """[D] mu(d) = r^-2 over all docIDs of the query."""
    mu = batch.doc_rank.double() ** -2
    return (
        mu / torch.zeros(len(batch.query_ids), dtype=torch.float64).index_add(0, batch.doc_query, mu)[batch.doc_query]
    )


def free_probs(batch, logprobs):
    return torch.stack([logprobs[path[path >= 0]].sum().exp() for path in batch.doc_path])


def brute_force(mu, p, beta):
    """The family written out over every outcome, those that mu never has as one more."""
    mu, p = [*mu, 0.0], [*p, 1 - sum(p)]
    kl = lambda a, b: sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 1e-12)  # noqa: E731
    if beta == 0:
        return kl(mu, p)
    if beta == 1:
        return kl(p, mu)
    mixed = [beta * x + (1 - beta) * y for x, y in zip(mu, p, strict=True)]
    return (beta * kl(mu, mixed) + (1 - beta) * kl(p, mixed)) / (beta * (1 - beta))


def gradient(value, logprobs):
    return torch.autograd.grad(value.sum(), logprobs)[0]


@pytest.mark.parametrize("source", ["constrained", "free"])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_divergence_over_docids_is_the_brute_force_sum(beta, source):
    if source == "free" and beta == 1:
        pytest.skip("infinite, and refused")
    for seed in SEEDS:
        batch = pack([random_query(seed, docs=7), random_query(seed + 100, docs=1), random_query(seed + 200, docs=12)])
        logprobs = made_up_logprobs(batch, seed)
        found = docid_divergence(batch, logprobs, beta, source)
        probs = (docid_probs if source == "constrained" else free_probs)(batch, logprobs)
        for query in range(3):
            docs = batch.doc_query == query
            wanted = brute_force(target_of(batch)[docs].tolist(), probs[docs].tolist(), beta)
            assert found[query].item() == pytest.approx(wanted, abs=1e-6)


def test_its_gradient_is_the_brute_force_sums():
    """d/dp of the same sums, with p by loops over siblings and autograd through them."""
    batch = pack(ragged_queries())
    logprobs = made_up_logprobs(batch).requires_grad_()
    probs, mu = docid_probs(batch, logprobs), target_of(batch)
    mixed = 0.3 * mu + 0.7 * probs
    wanted = {
        0.0: (mu * (mu / probs).log()).sum(),
        0.3: ((mu * (mu / mixed).log()).sum() * 0.3 + 0.7 * (probs * (probs / mixed).log()).sum()) / 0.21,
        1.0: (probs * (probs / mu).log()).sum(),
    }
    for beta, value in wanted.items():
        ours = gradient(docid_divergence(batch, logprobs, beta, "constrained"), logprobs)
        expected = torch.autograd.grad(value, logprobs, retain_graph=True)[0]
        assert torch.allclose(ours, expected, atol=1e-7)


def test_the_ends_are_limits_of_the_middle():
    batch = pack(ragged_queries())
    logprobs = made_up_logprobs(batch)
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        limit = docid_divergence(batch, logprobs, near, "constrained")
        assert torch.allclose(limit, docid_divergence(batch, logprobs, end, "constrained"), atol=1e-4)
    free = docid_divergence(batch, logprobs, 1e-9, "free")
    assert torch.allclose(free, docid_divergence(batch, logprobs, 0.0, "free"), atol=1e-4)


def test_the_forward_end_is_the_loss_by_mass():
    """KL(mu || p) has the gradient of item-level weights mu(r), whose sum over docIDs is not 1."""
    mass = pack(ragged_queries(), TargetSettings(token="every_node", beta=2.0, visits="mass"))
    logprobs = made_up_logprobs(mass).requires_grad_()
    root_mass = torch.zeros(3, dtype=torch.float64).index_add(0, mass.doc_query, mass.doc_rank.double() ** -2)
    loss = weighted_nll(logprobs, mass.node_weights.double() / root_mass[mass.node_row])
    ours = gradient(docid_divergence(mass, logprobs, 0.0, "free"), logprobs)
    assert torch.allclose(ours, gradient(loss, logprobs), atol=1e-6)


def test_by_nodes_the_reverse_end_is_the_sum_over_docids():
    """The chain rule, with p within the trie."""
    for seed in SEEDS:
        batch = pack([random_query(seed, docs=9), random_query(seed + 1, docs=4)])
        logprobs = made_up_logprobs(batch, seed)
        by_docids = docid_divergence(batch, logprobs, 1.0, "constrained")
        assert torch.allclose(visited_divergence(batch, logprobs, 1.0, "constrained"), by_docids, atol=1e-6)


def test_gradient_is_the_mean_of_the_sampled_estimator():
    """grad KL(p || mu) = E over docIDs that the model writes of (log p - log mu) grad log p, with a stop at neither."""
    batch = pack([random_query(4, docs=5)])
    logprobs = made_up_logprobs(batch).requires_grad_()
    exact = gradient(docid_divergence(batch, logprobs, 1.0, "constrained"), logprobs)
    steps = trie_logprobs(batch, logprobs)
    ratio = (docid_probs(batch, logprobs.detach()) / target_of(batch)).log()
    earned = torch.zeros_like(logprobs).index_copy(0, leaf_of(batch), ratio)
    torch.manual_seed(0)
    walks = visited(batch, family_argmax(batch, gumbel(steps.detach(), 4000)))
    kinds, counts = walks.unique(dim=0, return_counts=True)  # each docID's estimate is the same whenever it is drawn
    estimates = []
    for walk in kinds[:, None]:
        advantage = (torch.where(walk, earned, 0.0).sum()).expand(1, len(logprobs))
        estimates.append(-gradient(policy_loss(batch, trie_logprobs(batch, logprobs), walk, advantage), logprobs))
    share = (counts / counts.sum())[:, None]
    mean = (share * torch.stack(estimates)).sum(0)
    error = ((share * (torch.stack(estimates) - mean) ** 2).sum(0) / 4000).sqrt()
    moved = (error > 0) & (batch.node_token >= 0)
    assert moved.sum() > 5
    assert ((mean - exact).abs() <= 3 * error)[moved].all()
    stopped = gradient(visited_divergence(batch, logprobs, 1.0, "constrained"), logprobs)
    assert ((mean - stopped).abs() > 3 * error)[moved].any()  # DAgger's gradient is another one


def test_stopped_forward_end_is_every_node_by_reach():
    """sum_n reach(n) KL(mu_n || p_n) with reach as given: the loss of loss.visits=reach, but for constants."""
    settings = TargetSettings(token="every_node", beta=2.0, visits="reach")
    batch = pack(ragged_queries(), settings)
    logprobs = made_up_logprobs(batch).requires_grad_()
    loss = weighted_nll(logprobs, loss_weights(Context(batch, logprobs, 0), settings))
    visits_trie = visited_divergence(batch, logprobs, 0.0, "constrained")
    ours = gradient(visits_trie + invalid_nats(batch, logprobs), logprobs)  # log p = log p in the trie + log P_valid
    assert torch.allclose(ours, gradient(loss, logprobs), atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_stopped_and_free_by_loops(beta):
    """At every prefix: its probability times the divergence of the next token, "something else" being one outcome."""
    batch = pack([random_query(7, docs=8)])
    logprobs = made_up_logprobs(batch)
    total = 0.0
    for node in range(len(logprobs)):
        children = ((batch.node_parent == node) & (batch.node_token >= 0)).nonzero()[:, 0]
        if len(children):
            at, above = 0.0, node
            while batch.node_token[above] >= 0:
                at, above = at + logprobs[above].item(), int(batch.node_parent[above])
            here = brute_force(batch.node_target[children].tolist(), logprobs[children].exp().tolist(), beta)
            total += math.exp(at) * here
    assert visited_divergence(batch, logprobs, beta, "free").item() == pytest.approx(total, abs=1e-6)


def test_invalid_nats_by_loop():
    batch = pack(ragged_queries())
    logprobs = made_up_logprobs(batch)
    ratio = (docid_probs(batch, logprobs) / free_probs(batch, logprobs)).log() * docid_probs(batch, logprobs)
    wanted = torch.zeros(3, dtype=torch.float64).index_add(0, batch.doc_query, ratio)  # E of -log P_valid on the way
    assert torch.allclose(invalid_nats(batch, logprobs), wanted, atol=1e-9)


@pytest.mark.parametrize("stop_reach", [False, True])
@pytest.mark.parametrize("source", ["constrained", "free"])
def test_negatives_in_the_trie_change_neither_value_nor_gradient(stop_reach, source):
    settings = DistillationSettings(interpolation=0.5, stop_reach=stop_reach, source=source)
    batch = pack([random_query(3, docs=6, negatives=4)])
    logprobs = made_up_logprobs(batch).requires_grad_()
    found = Distillation(settings)(Context(batch, logprobs, 0)).loss_sum
    found.backward()
    assert logprobs.grad.isfinite().all()
    assert (logprobs.grad[~listed(batch)] == 0).all()
    assert logprobs.grad[listed(batch)].abs().max() > 1e-3
    lower = torch.where(listed(batch), logprobs.detach(), -50.0)
    assert Distillation(settings)(Context(batch, lower, 0)).loss_sum.item() == pytest.approx(found.item(), rel=1e-6)


def test_it_is_zero_at_the_target_and_for_a_list_of_one():
    batch = pack([random_query(1, docs=6), random_query(2, docs=1)])
    for beta in (0.0, 0.5, 1.0):
        found = docid_divergence(batch, batch.node_target.double().log().clamp(min=-700), beta, "constrained")
        assert found.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert docid_divergence(batch, made_up_logprobs(batch), 1.0, "constrained")[1].item() == pytest.approx(0, abs=1e-9)


def test_extreme_logits_and_underflown_targets_stay_finite():
    settings = TargetSettings(token="trie", beta=60.0)
    batch = pack([random_query(1, docs=6)], settings)
    for scale in (1.0, 1000.0):
        logprobs = (scale * made_up_logprobs(batch)).float().requires_grad_()
        found = Distillation(DistillationSettings(valid_weight=0.0))(Context(batch, logprobs, 0))
        found.loss_sum.backward()
        assert found.loss_sum.dtype == torch.float32
        assert found.loss_sum.isfinite()
        assert logprobs.grad.isfinite().all()


def test_terms_are_those_of_two_outcomes_by_hand():
    """mu = (1/2, 1/2), p = (1/4, 3/4), b = 1/2: m = (3/8, 5/8)."""
    mu, p = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
    kl_mu = 0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)
    kl_p = 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)
    terms = divergence_terms(mu.log(), p.log(), 0.5)
    assert terms.sum().item() == pytest.approx(2 * kl_mu + 2 * kl_p)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("wordnet_ntp", "distillation takes its target, .* from the loss and nothing else"),
        ("wordnet_alpha2", "distillation takes its target"),
        ("wordnet_every_node", "distillation takes its target"),
        ("wordnet_beta2,scheduled_sampling", "both take the place of the loss"),
        ("wordnet_beta2 mitigations.distillation.interpolation=1.5", "interpolation=1.5 must lie between 0 and 1"),
        ("wordnet_beta2 mitigations.distillation.source=free", "source=free conflicts with interpolation=1"),
        ("wordnet_beta2 mitigations.distillation.valid_weight=-1", "valid_weight=-1.0 must be a finite number"),
        ("wordnet_beta2 tokenizer.terminator=none", "distillation conflicts with tokenizer.terminator=none"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message):
    recipe, *settings = words.split()
    with pytest.raises(ValueError, match=f"mitigations.*{message}"):
        load_recipe(f"recipe={recipe},small,distillation", *settings)
