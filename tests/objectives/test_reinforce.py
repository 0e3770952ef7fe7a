"""REINFORCE and MIXER: the policy gradient is that of the exact expectation, whatever baseline and shaping."""

from __future__ import annotations

import itertools

import pytest
import torch

from stoical.decoding.walks import gold_child, path_sums, trie_logprobs, visited
from stoical.objectives.mitigations.mixer import Mixer, MixerSettings, forced_steps, own_tokens
from stoical.objectives.mitigations.reinforce import (
    PolicySettings,
    Reinforce,
    ReinforceSettings,
    advantages,
    leave_one_out,
    policy_gradient,
    policy_loss,
    returns_to_go,
)
from stoical.objectives.mitigations.rewards import best_below, docid_rewards, expected_reward
from tests.support.contexts import Context
from tests.support.gradients import loss_and_gradient
from tests.support.made_up import made_up_logprobs
from tests.support.packed import BETA, leaf_of, pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.reference import docid_probs

SHAPINGS = ["none", "potential"]


def walk_of(batch, doc):
    """[M] the walk that writes one docID (a place in the batch)."""
    walk = batch.node_token < 0
    walk[batch.doc_path[doc][batch.doc_path[doc] >= 0]] = True
    return walk


def exact_gradient(batch, rewards):
    logprobs = made_up_logprobs(batch).requires_grad_()
    expected_reward(batch, logprobs, rewards).sum().backward()
    return logprobs.grad


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy", "none"])
def test_the_mean_over_all_pairs_of_walks_is_the_exact_gradient(baseline, shaping):
    """Float64, all 36 pairs of docIDs of one query with their probabilities: unbiased to the last digit."""
    batch = pack([random_query(1, docs=6)], BETA)
    rewards = docid_rewards(batch, "target").double()
    probs = docid_probs(batch, made_up_logprobs(batch))
    mean = torch.zeros_like(rewards)
    for pair in itertools.product(range(6), repeat=2):
        logprobs = made_up_logprobs(batch).requires_grad_()
        walks = torch.stack([walk_of(batch, doc) for doc in pair])
        returns = returns_to_go(batch, walks, rewards, shaping)
        if baseline == "leave_one_out":
            against = leave_one_out(returns)
        elif baseline == "greedy":
            greedy = walk_of(batch, int(probs.argmax()))[None]
            against = returns_to_go(batch, greedy, rewards, shaping).expand_as(returns)
        else:
            against = torch.zeros_like(returns)
        advantage = advantages(batch, returns, against)
        policy_loss(batch, trie_logprobs(batch, logprobs), walks & (batch.node_token >= 0), advantage).backward()
        mean += probs[list(pair)].prod() * logprobs.grad
    assert torch.allclose(mean, -exact_gradient(batch, rewards), rtol=1e-10, atol=1e-13)
    assert mean.abs().max() > 1e-2


@pytest.mark.parametrize(
    "settings",
    [PolicySettings(), PolicySettings(baseline="greedy", shaping="potential"), PolicySettings(reward="prefix_credit")],
)
def test_sampled_gradients_agree_with_the_exact_one(settings):
    """Ragged queries, 300 draws of 4 walks each: every component within 4 standard errors."""
    torch.manual_seed(0)
    batch, draws = pack(ragged_queries(), BETA), 300
    rewards = docid_rewards(batch, settings.reward).double()
    forced, gold = torch.zeros(3, dtype=torch.int64), gold_child(batch)
    gradients, earned = [], []
    for _ in range(draws):
        logprobs = made_up_logprobs(batch).requires_grad_()
        output = policy_gradient(batch, logprobs, settings, forced, gold)
        output.loss_sum.backward()
        gradients.append(logprobs.grad)
        earned.append(output.logs["reward"])
    gradients = torch.stack(gradients)
    error = (gradients.mean(dim=0) + exact_gradient(batch, rewards)).abs()
    assert (error <= 4 * gradients.std(dim=0) / draws**0.5 + 1e-12).all()
    earned = torch.tensor(earned, dtype=torch.float64)
    mean = expected_reward(batch, made_up_logprobs(batch), rewards).mean()
    assert (earned.mean() - mean).abs() < 4 * earned.std() / draws**0.5
    assert output.logs["expected_reward"] == pytest.approx(mean.item(), rel=1e-6)


def test_greedy_baseline_is_the_reward_of_the_likeliest_steps():
    torch.manual_seed(0)
    batch = pack(ragged_queries(), BETA)
    logprobs, rewards = made_up_logprobs(batch), docid_rewards(batch, "target")
    settings = PolicySettings(baseline="greedy")
    output = policy_gradient(batch, logprobs, settings, torch.zeros(3, dtype=torch.int64), gold_child(batch))
    expected = []
    for root in (batch.node_token < 0).nonzero()[:, 0].tolist():
        node, children = root, [root]
        while children:
            children = [n for n in range(len(logprobs)) if batch.node_parent[n] == node and n != node]
            node = max(children, key=lambda n: logprobs[n].item(), default=node)
        expected.append(rewards[node].item())
    assert output.logs["baseline"] == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_shaped_returns_telescope_to_the_reward():
    """What a step earns is the change of the best reward below; all of it together is R(d)."""
    batch = pack(ragged_queries(), BETA)
    rewards = docid_rewards(batch, "target")
    best = best_below(batch, rewards)
    for doc, path in enumerate(batch.doc_path):
        nodes, query = path[path >= 0], int(batch.doc_query[doc])
        walk = walk_of(batch, doc)[None]
        returns = returns_to_go(batch, walk, rewards, "potential")[0, query]
        assert returns[0] == rewards[leaf_of(batch)[doc]]
        promised = torch.cat([torch.zeros(1), best[nodes]])
        earned = returns - torch.cat([returns[1:], torch.zeros(1)])
        assert torch.allclose(earned[: len(nodes)], promised[1:] - promised[:-1], atol=1e-7)
        assert (earned[len(nodes) :] == 0).all()
        assert (returns_to_go(batch, walk, rewards, "none")[0, query] == rewards[leaf_of(batch)[doc]]).all()


def test_equal_rewards_teach_nothing():
    batch = pack([random_query(1, docs=6)], BETA)
    ones = torch.where(docid_rewards(batch, "gain") > 0, 1.0, 0.0).double()
    walks = torch.stack([walk_of(batch, doc) for doc in (0, 3, 3, 5)])
    returns = returns_to_go(batch, walks, ones, "none")
    assert (advantages(batch, returns, leave_one_out(returns)) == 0).all()


def test_mixer_gives_reinforce_one_more_token_a_stage():
    assert [own_tokens(step, 10, 5) for step in (0, 9, 10, 14, 15, 20, 100)] == [0, 0, 1, 1, 2, 3, 19]
    batch = pack(ragged_queries(), BETA)
    lengths = (batch.doc_path[batch.doc_rank == 1] >= 0).sum(dim=1)
    assert torch.equal(forced_steps(batch, 0, 0), lengths)
    assert torch.equal(forced_steps(batch, 2, 0), (lengths - 2).clamp(min=0))
    assert (forced_steps(batch, 99, 0) == 0).all()
    assert torch.equal(forced_steps(batch, 99, 2), lengths.clamp(max=2))


def test_mixer_without_taught_tokens_is_reinforce():
    same = {"samples": 3, "baseline": "greedy", "shaping": "potential", "reward": "gain"}
    torch.manual_seed(1)
    mixed, mixed_gradient = loss_and_gradient(Mixer(MixerSettings(stage=1, **same)), ragged_queries(), BETA, step=9)
    torch.manual_seed(1)
    alone, gradient = loss_and_gradient(Reinforce(ReinforceSettings(**same)), ragged_queries(), BETA, step=9)
    assert torch.equal(mixed.loss_sum, alone.loss_sum)
    assert torch.equal(mixed_gradient, gradient)
    assert gradient.norm() > 1e-2
    assert mixed.logs == alone.logs | {"forced_steps": 0.0}


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_mixer_between_the_two_is_the_loss_above_and_the_expected_reward_below(shaping):
    """Over 300 draws, within 4 standard errors: cross-entropy of s steps, minus E[R | the first s tokens of d_1]."""
    torch.manual_seed(0)
    batch = pack(ragged_queries(), BETA)
    settings = MixerSettings(stage=1, shaping=shaping)
    forced = forced_steps(batch, own_tokens(1, 0, 1), 0)
    assert 0 < forced.min() < forced.max()
    below = batch.node_depth > forced[batch.node_row]

    def exact(logprobs):
        taught = -(torch.where(below, 0.0, batch.node_weights) * logprobs).sum()
        steps = torch.where(below, trie_logprobs(batch, logprobs), 0.0)
        led = visited(batch, torch.where(batch.node_depth < forced[batch.node_row], gold_child(batch), -1))[0]
        reached = [bool(led[path[: s + 1]].all()) for path, s in docs]
        leaf = leaf_of(batch)[torch.tensor(reached)]
        probs = path_sums(batch, steps)[leaf].exp()
        return taught - (probs * docid_rewards(batch, "target")[leaf]).sum()

    docs = [
        (path[path >= 0][: int(forced[q])], int(forced[q]))
        for path, q in zip(batch.doc_path, batch.doc_query.tolist(), strict=True)
    ]
    logprobs = made_up_logprobs(batch).requires_grad_()
    exact(logprobs).backward()
    gradients = []
    for _ in range(300):
        drawn = made_up_logprobs(batch).requires_grad_()
        Mixer(settings)(Context(batch, drawn, step=1)).loss_sum.backward()
        gradients.append(drawn.grad)
    gradients = torch.stack(gradients)
    error = (gradients.mean(dim=0) - logprobs.grad).abs()
    assert (error <= 4 * gradients.std(dim=0) / 300**0.5 + 1e-9).all()
    assert logprobs.grad[below].abs().max() > 1e-2
