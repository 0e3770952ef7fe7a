"""Scheduled sampling: teacher forcing at probability 1 bit for bit, the expert's targets on the walk, and schedules."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.forward import node_logprobs
from stoical.losses import StepContext, SToICaLLoss
from stoical.mitigations.scheduled_sampling import ScheduledSampling, ScheduledSamplingSettings, mixed_walk
from stoical.mitigations.schedules import gold_probability
from stoical.packing import TrieTargetCollator
from stoical.targets import TargetSettings
from tests.conftest import ragged_queries, random_query, tiny_model
from tests.reference import trie_target
from tests.test_losses import made_up_logprobs
from tests.test_walks import prefix_of

PATH_LOSSES = {"one_hot": TargetSettings(), "trie": TargetSettings(token="trie", beta=2.0)}


def loss_and_gradient(objective, queries, settings, step=0):
    model = tiny_model()
    batch = TrieTargetCollator(settings, pad_id=0, prune=False)(queries)["batch"]
    output = node_logprobs(model, batch)
    result = objective(StepContext(batch, output, step, forward=node_logprobs, predict=node_logprobs))
    result.loss_sum.backward()
    return result, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("settings", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_gold_probability_one_is_teacher_forcing_bit_for_bit(settings, count_terminator):
    queries = ragged_queries(count_terminator=count_terminator)
    sampling = ScheduledSampling(ScheduledSamplingSettings("constant", minimum=1.0))
    mixed, mixed_gradient = loss_and_gradient(sampling, queries, settings)
    forced, forced_gradient = loss_and_gradient(SToICaLLoss(settings), queries, settings)
    assert torch.equal(mixed.loss_sum, forced.loss_sum)
    assert torch.equal(mixed_gradient, forced_gradient)
    assert mixed.logs["off_gold_path"] == 0


@pytest.mark.parametrize("settings", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_the_loss_is_the_cross_entropy_to_the_expert_along_the_walk(settings):
    query = random_query(4, docs=9)
    batch = TrieTargetCollator(settings, pad_id=0, prune=False)([query])["batch"]
    output = node_logprobs(tiny_model(), batch)
    sampling = ScheduledSampling(ScheduledSamplingSettings("constant", minimum=0.3))
    docids, left = [tuple(ids) for ids in query.docid_ids], 0
    for seed in range(20):
        torch.manual_seed(seed)
        walk = mixed_walk(batch, output.logprobs, 0.3)[0]
        torch.manual_seed(seed)
        result = sampling(StepContext(batch, output, 0, node_logprobs, node_logprobs))
        expected = 0.0
        for node in (walk & (batch.node_rank >= 0)).nonzero()[:, 0].tolist():
            children = [n for n in range(1, len(walk)) if batch.node_parent[n] == node]
            if not children:
                continue
            prefix = prefix_of(batch, node)
            if settings.beta is None:  # the best-ranked docID below
                best = min((r, d) for r, d in zip(query.ranks, docids, strict=True) if d[: len(prefix)] == prefix)[1]
                target = {best[len(prefix)]: 1.0}
            else:
                target = trie_target(docids, query.ranks, prefix, settings.beta)
            expected -= sum(
                target.get(int(batch.node_token[child]), 0.0) * output.logprobs[child].item() for child in children
            )
        assert result.loss_sum.item() == pytest.approx(expected, rel=1e-5)
        left += result.logs["off_gold_path"] > 0
    assert 0 < left < 20


def test_walk_leaves_the_gold_path_as_often_as_it_should():
    """First step: gold with probability eps + (1 - eps) p(gold)."""
    torch.manual_seed(0)
    query = random_query(7, docs=5)
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)([query])["batch"]
    logprobs = made_up_logprobs(batch)
    first = (batch.node_depth == 1).nonzero()[:, 0]
    probs = logprobs[first].exp() / logprobs[first].exp().sum()
    gold = first.tolist().index(int(batch.doc_path[0, 0]))
    count = 3000
    stayed = sum(bool(mixed_walk(batch, logprobs, 0.4)[0, first[gold]]) for _ in range(count)) / count
    expected = 0.4 + 0.6 * probs[gold].item()
    assert abs(stayed - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("schedule", ["linear", "exponential", "inverse_sigmoid"])
def test_schedules_fall_through_a_half_at_half_step(schedule):
    values = [gold_probability(schedule, 300, 0.1, step) for step in range(0, 2000)]
    assert values[300] == pytest.approx(0.5, abs=1e-9)
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1.0, abs=0.02)
    assert values[-1] == pytest.approx(0.1)
    assert gold_probability("constant", None, 0.25, 7) == 0.25


def test_inverse_sigmoid_is_bengios():
    """k / (k + exp(step / k)) with k = 60, whose half step is k ln k."""
    half = round(60 * math.log(60))
    for step in (0, 100, 500):
        assert gold_probability("inverse_sigmoid", half, 0.0, step) == pytest.approx(
            60 / (60 + math.exp(step / 60)), rel=2e-2
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ScheduledSamplingSettings("linear"), "half_step goes with every schedule but constant"),
        (ScheduledSamplingSettings("constant", half_step=3), "half_step goes with every schedule but constant"),
        (ScheduledSamplingSettings("linear", half_step=0), "half_step=0 must be at least 1"),
        (ScheduledSamplingSettings("constant", minimum=1.5), "minimum=1.5 must lie between 0 and 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"mitigations.scheduled_sampling.{message}"):
        settings.check()
