"""Scheduled sampling on the trie: teacher forcing at probability 1, targets on the walk, the exact expectation."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.common.places import shipped
from stoical.config.loading import load_recipe
from stoical.decoding.scores import valid_mass
from stoical.decoding.walks import family_sums, gold_child, spelled, trie_logprobs, visited
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.forward import node_logprobs
from stoical.objectives.mitigations.mixed_walks import (
    Confidence,
    drawn_steps,
    expected_visits,
    expert_steps,
    parallel_walk,
    step_probabilities,
)
from stoical.objectives.mitigations.mixer import own_tokens
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSampling, ScheduledSamplingSettings, visits
from stoical.objectives.mitigations.schedules import gold_at, gold_probability, in_steps
from stoical.objectives.objective import StepContext
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import build_trainer
from stoical.trie.node_weights import TargetSettings
from tests.support.gradients import first_gradient, loss_and_gradient
from tests.support.made_up import made_up_logprobs
from tests.support.packed import prefix_of
from tests.support.random_queries import ragged_queries, random_query
from tests.support.reference import trie_target
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_recipe

CONFIDENT = {"gold_confidence": 0.2, "random_confidence": 0.6}
LITERAL = {"method": "parallel", "passes": 2, "target": "gold_position", "source": "free"}
WAYS = {
    "sequential": {},
    "free": {"source": "free"},
    "parallel": {"method": "parallel", "passes": 2},
    "expected": {"method": "expected"},
    "confidence": CONFIDENT,
    "literal": LITERAL,
    "literal confidence": LITERAL | CONFIDENT,
}
OVERLAYS = [
    "scheduled_sampling",
    "scheduled_sampling_literal",
    "scheduled_sampling_parallel",
    "scheduled_sampling_confidence",
    "scheduled_sampling_expected",
]
PATH_LOSSES = {"one_hot": TargetSettings(), "trie": TargetSettings(token="trie", beta=2.0)}


def constant(gold, **way):
    return ScheduledSamplingSettings("constant", minimum=gold, **way)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("settings", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_gold_probability_one_is_teacher_forcing_bit_for_bit(settings, count_terminator, way):
    queries = ragged_queries(count_terminator=count_terminator)
    sampling = ScheduledSampling(constant(1.0, **way))
    sampling.settings.check()
    mixed, mixed_gradient = loss_and_gradient(sampling, queries, settings)
    forced, forced_gradient = loss_and_gradient(SToICaLLoss(settings), queries, settings)
    assert torch.equal(mixed.loss_sum, forced.loss_sum)
    assert torch.equal(mixed_gradient, forced_gradient)
    assert mixed.logs.get("off_gold_path", 0.0) == 0
    assert mixed.logs.get("off_trie_rate", 0.0) == 0
    tokens = sum(query.counted[0] for query in queries)
    assert mixed.logs["loss_per_token"] == pytest.approx(forced.loss_sum.item() / tokens, rel=1e-5)


@pytest.mark.parametrize("settings", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_the_loss_is_the_cross_entropy_to_the_expert_along_the_walk(settings):
    query = random_query(4, docs=9)
    batch = TrieTargetCollator(settings, pad_id=0, prune=False)([query])["batch"]
    output = node_logprobs(tiny_model(), batch, keep="logits")
    sampling = ScheduledSampling(constant(0.3))
    docids, left = [tuple(ids) for ids in query.docid_ids], 0
    for seed in range(20):
        torch.manual_seed(seed)
        walk = visits(batch, output.logprobs, 0.3, sampling.settings).bool()
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
    count = 1000
    stayed = sum(bool(visits(batch, logprobs, 0.4, constant(0.4))[first[gold]]) for _ in range(count)) / count
    expected = 0.4 + 0.6 * probs[gold].item()
    assert abs(stayed - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("confidence", [None, Confidence(0.2, 0.6)], ids=["plain", "confident"])
@pytest.mark.parametrize("source", ["constrained", "free"])
def test_expected_visits_are_the_mean_of_sampled_walks(source, confidence):
    torch.manual_seed(0)
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)([random_query(7, docs=5)])["batch"]
    steps = step_probabilities(batch, made_up_logprobs(batch), 0.3, source, confidence)
    count = 2000
    walks = sum(visited(batch, drawn_steps(batch, steps, source)[None])[0].double() for _ in range(count))
    expected = expected_visits(batch, steps)
    assert ((walks / count - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt() + 1e-9).all()
    assert len(set(expected.tolist())) > 5


@pytest.mark.parametrize("settings", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_the_expected_loss_by_loop(settings):
    """w(child) = w(n) (eps expert(child) + (1 - eps) p(child)), and the cross-entropy of every node times w(n)."""
    query = random_query(3, docs=9)
    batch = TrieTargetCollator(settings, pad_id=0, prune=False)([query])["batch"]
    output = node_logprobs(tiny_model(), batch, keep="logits")
    sampling = ScheduledSampling(constant(0.6, method="expected"))
    result = sampling(StepContext(batch, output, 0, node_logprobs, node_logprobs))
    pick, p = gold_child(batch)[0], trie_logprobs(batch, output.logprobs).exp()
    weight, expected = {0: 1.0}, 0.0
    for node in range(1, len(p)):  # parents come first
        parent = int(batch.node_parent[node])
        weight[node] = weight[parent] * (0.6 * (int(pick[parent]) == node) + 0.4 * p[node].item())
        expected -= weight[parent] * batch.node_target[node].item() * output.logprobs[node].item()
    assert result.loss_sum.item() == pytest.approx(expected, rel=1e-5)


def test_free_walks_end_at_a_docid_as_often_as_the_model_writes_one():
    """Without the expert, the leaves are reached with the model's probability of a docID: the valid mass."""
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)(ragged_queries())["batch"]
    logprobs = made_up_logprobs(batch)
    weight = expected_visits(batch, step_probabilities(batch, logprobs, 0.0, "free"))
    leaves = family_sums(batch, torch.ones_like(weight)) == 0
    reached = torch.zeros(3, dtype=torch.float64).index_add(0, batch.node_row[leaves], weight[leaves])
    assert torch.allclose(reached, valid_mass(batch, logprobs))


def test_off_trie_rate_is_zero_within_the_trie_and_the_invalid_mass_outside():
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)(ragged_queries())["batch"]
    output = node_logprobs(tiny_model(), batch, keep="logits")
    rates = {}
    for source in ("constrained", "free"):
        sampling = ScheduledSampling(constant(0.0, method="expected", source=source))
        rates[source] = sampling(StepContext(batch, output, 0, node_logprobs, node_logprobs)).logs["off_trie_rate"]
    assert rates["constrained"] == pytest.approx(0, abs=1e-6)
    assert rates["free"] == pytest.approx(1 - valid_mass(batch, output.logprobs).mean().item(), rel=1e-4)


def test_confidence_decides_by_the_probability_of_the_gold_token():
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)(ragged_queries())["batch"]
    logprobs = made_up_logprobs(batch)
    own, expert = trie_logprobs(batch, logprobs).exp(), expert_steps(batch).double()
    inner = batch.node_token >= 0
    seen = set()
    steps = step_probabilities(batch, logprobs, 0.0, "constrained", Confidence(0.5, 0.8))
    for node in range(len(own)):
        children = [c for c in range(len(own)) if batch.node_parent[c] == node and inner[c]]
        if not children:
            continue
        sure = own[int(gold_child(batch)[0, node])].item()
        kind = 0 if sure <= 0.5 else 1 if sure <= 0.8 else 2
        seen.add(kind)
        for child in children:
            expected = (expert[child].item(), own[child].item(), 1 / len(children))[kind]
            assert steps[child].item() == pytest.approx(expected)
    assert seen == {0, 1, 2}


def test_as_many_passes_as_tokens_are_the_sequential_walk():
    """Same picks: one pass differs from the sequential walk, the longest docID's number of passes never does."""
    torch.manual_seed(0)
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)(ragged_queries())["batch"]
    logprobs, longest, differs = made_up_logprobs(batch), int(batch.node_depth.max()), 0
    for source in ("constrained", "free"):
        steps = step_probabilities(batch, logprobs, 0.2, source)
        for _ in range(20):
            pick = drawn_steps(batch, steps, source)
            walk = visited(batch, pick[None])[0]
            assert torch.equal(parallel_walk(batch, pick, longest), walk)
            differs += not torch.equal(parallel_walk(batch, pick, 1), walk)
    assert differs > 5


def test_one_parallel_pass_by_loop():
    """Token t is the pick after the gold docID's first t - 1 tokens; the prefix lives while the trie has it."""
    torch.manual_seed(1)
    query = random_query(3, docs=9)
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)([query])["batch"]
    steps, cut = step_probabilities(batch, made_up_logprobs(batch), 0.5, "constrained"), 0
    for _ in range(20):
        pick = drawn_steps(batch, steps, "constrained")
        nodes = [0, *batch.doc_path[0][batch.doc_path[0] >= 0].tolist()][:-1]
        tokens = tuple(int(batch.node_token[pick[node]]) for node in nodes)
        expected = {node for node in range(len(pick)) if prefix_of(batch, node) == tokens[: batch.node_depth[node]]}
        assert set(parallel_walk(batch, pick, 1).nonzero()[:, 0].tolist()) == expected
        cut += len(expected) < len(tokens) + 1
    assert cut > 0


def test_spelled_prefixes():
    batch = TrieTargetCollator(PATH_LOSSES["trie"], pad_id=0, prune=False)(ragged_queries())["batch"]
    tokens = torch.full((3, 2), -2)
    for row, query in enumerate(ragged_queries()):
        tokens[row] = torch.tensor(query.docid_ids[-1][:2])
    tokens[1, 0] = 90  # in no docID
    found = {(int(batch.node_row[n]), prefix_of(batch, n)) for n in spelled(batch, tokens).nonzero()[:, 0].tolist()}
    first, third = tuple(tokens[0].tolist()), tuple(tokens[2].tolist())
    assert found == {(0, ()), (0, first[:1]), (0, first), (1, ()), (2, ()), (2, third[:1]), (2, third)}


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


@pytest.mark.parametrize("steps", [10, 600, 10_000])
@pytest.mark.parametrize("schedule", ["linear", "exponential", "inverse_sigmoid"])
def test_a_half_step_below_one_is_a_share_of_the_run(schedule, steps):
    """At half the run every gold token is fed with probability 1/2, however long the run is."""
    settings = ScheduledSamplingSettings(schedule, half_step=0.5)
    settings.check()
    assert gold_at(settings, steps // 2, steps) == pytest.approx(0.5, abs=1e-9)
    assert settings.follows_length
    with pytest.raises(ValueError, match="run_steps"):
        gold_at(settings, 1, None)


@pytest.mark.parametrize("half_step", [0.0, -1.0, 1.5, math.inf, math.nan])
def test_a_half_step_is_whole_or_a_share(half_step):
    with pytest.raises(ValueError, match="whole number of optimizer steps, at least 1, or a share of the run"):
        ScheduledSamplingSettings("linear", half_step=half_step).check()


SHIPPED_OVERLAYS = sorted(path.stem for path in (shipped("recipes") / "overlays").glob("scheduled_sampling*.yaml"))


@pytest.mark.parametrize("overlay", [*SHIPPED_OVERLAYS, "mixer"])
def test_overlays_do_what_they_say_in_a_run_of_any_length(overlay):
    """10,000 steps and 100: the schedules of the overlays follow the run."""
    for steps in (100, 10_000):
        recipe = load_recipe(f"recipe=wordnet_beta2,{overlay}", f"training.max_steps={steps}")
        (method,) = recipe.mitigations.methods.values()
        if overlay == "mixer":
            spans = [in_steps(span, steps) for span in (method.warmup, method.stage)]
            at = (0, steps // 2 - 1, steps // 2, steps - 1)
            assert [own_tokens(step, *spans) for step in at] == [0, 0, 1, 5]
        else:
            assert gold_at(method, 0, steps) > 0.9
            assert gold_at(method, steps // 2, steps) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ScheduledSamplingSettings("linear"), "half_step goes with every schedule but constant"),
        (ScheduledSamplingSettings("constant", half_step=3), "half_step goes with every schedule but constant"),
        (ScheduledSamplingSettings("linear", half_step=0), "half_step=0 must be a whole number"),
        (ScheduledSamplingSettings("constant", minimum=1.5), "minimum=1.5 must lie between 0 and 1"),
        (constant(0.5, passes=2), "passes goes with method=parallel"),
        (constant(0.5, method="parallel"), "passes goes with method=parallel"),
        (constant(0.5, method="parallel", passes=0), "passes=0 must be at least 1"),
        (constant(0.5, target="gold_position"), "target=gold_position conflicts with method=sequential"),
        (constant(0.5, **LITERAL | {"method": "expected", "passes": None}), "target=gold_position conflicts with"),
        (constant(0.5, **LITERAL | {"source": "constrained"}), "target=gold_position leaves the trie"),
        (constant(0.5, gold_confidence=0.5), "gold_confidence goes with random_confidence"),
        (constant(0.5, gold_confidence=0.5, random_confidence=0.4), ""),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"mitigations.scheduled_sampling.{message}"):
        settings.check()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_recipe_with_the_overlay_trains(tmp_path, overlay):
    key = "mitigations.scheduled_sampling"
    changes = [f"{key}.half_step=null", f"{key}.schedule=constant", f"{key}.minimum=0.3", "training.logging_steps=1"]
    changes += [f"{key}.gold_confidence=0.001"] * overlay.endswith("confidence")  # an untrained model is never sure
    trainer = build_trainer(tiny_recipe(tmp_path, *changes, recipe=f"wordnet_beta2,{overlay}"))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_per_token" in entry]
    assert len(logs) == 3
    assert all(0 < entry["loss_per_token"] < 10 and 0 <= entry["off_trie_rate"] <= 1 for entry in logs)
    assert max(entry.get("off_gold_path", entry.get("replaced_tokens")) for entry in logs) > 0


def test_the_expectation_is_the_same_however_the_batch_is_cut(tmp_path):
    key = "mitigations.scheduled_sampling"
    common = [f"{key}.half_step=null", f"{key}.schedule=constant", f"{key}.minimum=0.3", "training.max_steps=1"]
    gradients = [
        first_gradient(
            tiny_recipe(
                tmp_path,
                *common,
                f"training.per_device_train_batch_size={size}",
                recipe="wordnet_beta2,scheduled_sampling_expected",
            )
        )
        for size in (8, 2)
    ]
    assert (gradients[0] - gradients[1]).norm() < 1e-6 * max(1, gradients[0].norm())
