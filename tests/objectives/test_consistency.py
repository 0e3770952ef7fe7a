"""Consistency regularization: weight 0 is teacher forcing, terms against float64 loops, closed-form gradients."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.decoding.walks import counted, next_token_logprobs
from stoical.models.forward import NodeOutput, node_logprobs
from stoical.objectives.mitigations.consistency import (
    Consistency,
    ConsistencySettings,
    free_run,
    literal_kl,
    marginal_kl,
    paired_positions,
    target_kl,
)
from stoical.objectives.objective import StepContext
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import build_trainer
from stoical.trie.node_weights import TargetSettings
from tests.support.made_up import made_up_logprobs, made_up_output
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import ragged_queries, random_query
from tests.support.reference import trie_target
from tests.support.tiny_model import VOCAB, tiny_model
from tests.support.tiny_recipe import tiny_recipe

SETTINGS = TargetSettings(token="trie", beta=1.0)
MODES = {
    "target": ConsistencySettings(1.0, "target", "greedy"),
    "literal": ConsistencySettings(1.0, "literal", "sampled", "none"),
    "marginal": ConsistencySettings(1.0, "marginal"),
}


def loop_steps(batch, logprobs):
    """{node: {child: constrained probability}} by loops."""
    steps = {}
    for node in range(len(logprobs)):
        children = [c for c in range(len(logprobs)) if batch.node_parent[c] == node and batch.node_token[c] >= 0]
        total = sum(math.exp(logprobs[c]) for c in children)
        steps[node] = {c: math.exp(logprobs[c]) / total for c in children}
    return steps


def context_of(model, batch):
    return StepContext(batch, node_logprobs(model, batch, keep="logits"), 0, node_logprobs, node_logprobs)


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", MODES)
def test_weight_zero_is_teacher_forcing_bit_for_bit(name):
    model, batch = tiny_model(), pack(ragged_queries(), SETTINGS)
    forced = SToICaLLoss(SETTINGS)(context_of(model, batch)).loss_sum
    context = context_of(model, batch)
    settings = ConsistencySettings(**vars(MODES[name]) | {"weight": 0.0})
    joined = SToICaLLoss(SETTINGS)(context).loss_sum + Consistency(settings)(context).loss_sum
    assert torch.equal(joined, forced)
    assert torch.equal(gradient(model, joined), gradient(model, forced))


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("count_terminator", [True, False])
def test_terms_are_no_less_than_zero_and_change_the_gradient(name, count_terminator):
    model, batch = tiny_model(), pack(ragged_queries(count_terminator=count_terminator), SETTINGS)
    torch.manual_seed(0)
    result = Consistency(MODES[name])(context_of(model, batch))
    assert result.loss_sum.item() > (-math.inf if name == "target" and not count_terminator else 0)
    assert result.logs["consistency"] == pytest.approx(result.loss_sum.item() / 3)
    assert gradient(model, result.loss_sum).norm() > 1e-4


def test_a_query_of_one_document_has_no_mismatch_of_prefixes():
    batch = pack([random_query(2, docs=1)], SETTINGS)
    output = made_up_output(batch)
    run = free_run(batch, output.logprobs, "greedy")
    assert run.all()
    assert paired_positions(batch, run)[0].numel() == 0
    assert marginal_kl(batch, output).item() == pytest.approx(0, abs=1e-12)


def test_greedy_run_by_loop():
    batch = pack([random_query(3, docs=9)], SETTINGS)
    logprobs = made_up_logprobs(batch)
    steps, node, expected = loop_steps(batch, logprobs), 0, {0}
    while steps[node]:
        node = max(steps[node], key=steps[node].get)
        expected.add(node)
    assert set(free_run(batch, logprobs, "greedy").nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("seed", range(5))
def test_literal_term_by_loop(seed):
    """KL(p_tf || p_ar) over the whole vocabulary, positions up to the shorter docID's end; exactly 0 at the first."""
    batch = pack([random_query(seed, docs=9)], SETTINGS)
    output = made_up_output(batch, seed)
    torch.manual_seed(seed)
    run = free_run(batch, output.logprobs, "sampled")
    gold_docid = batch.doc_path[0][batch.doc_path[0] >= 0].tolist()
    walk = {int(batch.node_depth[n]): n for n in run.nonzero()[:, 0].tolist()}
    expected = 0.0
    for depth, node in enumerate(gold_docid, start=1):
        if depth in walk:
            tf, ar = (output.logits[0, output.slot[n]].detach().softmax(-1) for n in (node, walk[depth]))
            divergence = sum(float(a) * (math.log(a) - math.log(b)) for a, b in zip(tf, ar, strict=True))
            assert depth > 1 or divergence == 0
            expected += divergence
    tf, ar = paired_positions(batch, run)
    assert (batch.node_depth[tf] > 1).all()
    value = literal_kl(next_token_logprobs(output, tf), next_token_logprobs(output, ar), "none")
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_pairs_stay_within_a_query():
    batch = pack(ragged_queries(), SETTINGS)
    torch.manual_seed(1)
    found = 0
    for _ in range(5):
        tf, ar = paired_positions(batch, free_run(batch, made_up_logprobs(batch), "sampled"))
        assert torch.equal(batch.node_row[tf], batch.node_row[ar])
        assert torch.equal(batch.node_depth[tf], batch.node_depth[ar])
        found += len(tf)
    assert found > 0


def test_literal_gradients_in_closed_form():
    """With a = p_tf and b = p_ar: b - a at the free run's logits, a (log a/b - KL) at the gold ones."""
    torch.manual_seed(0)
    z_tf, z_ar = torch.randn(2, 1, 7, dtype=torch.float64)
    a, b = z_tf.softmax(-1), z_ar.softmax(-1)
    kl = (a * (a.log() - b.log())).sum()
    closed = {"tf": a * (a.log() - b.log() - kl), "ar": b - a}
    for stop in ("none", "tf", "ar"):
        inputs = [z_tf.clone().requires_grad_(), z_ar.clone().requires_grad_()]
        value = literal_kl(*(z.log_softmax(-1) for z in inputs), stop)
        assert value.item() == pytest.approx(kl.item())
        value.backward()
        for name, z in zip(("tf", "ar"), inputs, strict=True):
            if name == stop:
                assert z.grad is None
            else:
                assert torch.allclose(z.grad, closed[name], atol=1e-12)


@pytest.mark.parametrize("count_terminator", [True, False])
def test_target_term_by_loop_and_its_gradient(count_terminator):
    """At every visited node KL(q || p), with gradient p - q at its logits where all of its children are counted."""
    query = random_query(4, docs=9, count_terminator=count_terminator)
    batch = pack([query], SETTINGS)
    output = made_up_output(batch)
    run = free_run(batch, output.logprobs, "greedy")
    value = target_kl(batch, output.logprobs, run)
    value.backward()
    docids, expected = [tuple(ids) for ids in query.docid_ids], 0.0
    for node in run.nonzero()[:, 0].tolist():
        children = [c for c in range(1, len(run)) if batch.node_parent[c] == node]
        if not children:
            continue
        target = trie_target(docids, query.ranks, prefix_of(batch, node), 1.0)
        if not count_terminator:
            target.pop(2, None)
        logits = output.logits[0, output.slot[children[0]]].detach()
        logp = logits.log_softmax(-1)
        expected += sum(q * (math.log(q) - logp[token].item()) for token, q in target.items())
        closed = logp.exp() * sum(target.values())
        for token, q in target.items():
            closed[token] -= q
        assert torch.allclose(output.logits.grad[0, output.slot[children[0]]], closed, atol=1e-6)
    assert value.item() == pytest.approx(expected, rel=1e-6)  # the packed targets are float32


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_marginal_term_by_loop(seed, count_terminator):
    """P_t mixes the next tokens of all prefixes of t - 1 tokens, and has the probability that the docID has ended."""
    query = random_query(seed, docs=9, count_terminator=count_terminator)
    batch = pack([query], SETTINGS)
    output = made_up_output(batch, seed)
    steps, is_counted = loop_steps(batch, output.logprobs.detach()), counted(batch)
    visits = {"pi": {0: 1.0}, "theta": {0: 1.0}}
    for node in sorted(steps, key=lambda n: int(batch.node_depth[n])):
        for child, step in steps[node].items():
            visits["pi"][child] = visits["pi"][node] * batch.node_target[child].item()
            visits["theta"][child] = visits["theta"][node] * step
    expected = 0.0
    for t in range(1, int(batch.node_depth.max()) + 1):
        mixed = {name: torch.zeros(VOCAB, dtype=torch.float64) for name in visits}
        for node, children in steps.items():
            if batch.node_depth[node] == t - 1 and any(is_counted[c] for c in children):
                p = output.logits[0, output.slot[next(iter(children))]].detach().softmax(-1)
                for name in visits:
                    mixed[name] += visits[name][node] * p
        wanted, actual = ([*mixed[name].tolist(), 1 - mixed[name].sum().item()] for name in ("pi", "theta"))
        terms = [a * math.log(a / b) for a, b in zip(wanted, actual, strict=True) if a > 1e-6]
        assert sum(terms) >= -1e-6
        assert t > 1 or abs(sum(terms)) < 1e-12
        expected += sum(terms)
    assert expected > 1e-3
    assert marginal_kl(batch, output).item() == pytest.approx(expected, rel=1e-4)


def test_marginal_gradient_by_finite_differences():
    batch = pack([random_query(1, docs=7)], SETTINGS)
    output = made_up_output(batch)

    def value(logits):
        logprobs = logits.log_softmax(-1)[0, output.slot, batch.node_token.clamp(min=0)]
        logprobs = torch.where(batch.node_token >= 0, logprobs, 0.0)
        return marginal_kl(batch, NodeOutput(logprobs, logits, output.row, output.slot))

    direction = torch.randn(output.logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (slope,) = torch.autograd.grad(value(output.logits), output.logits)
    step = 1e-5
    with torch.no_grad():
        rise = value(output.logits + step * direction) - value(output.logits - step * direction)
    assert (slope * direction).sum().item() == pytest.approx(rise.item() / (2 * step), rel=1e-5)


@pytest.mark.parametrize("name", MODES)
def test_layouts_agree(name):
    model, batch = tiny_model(), pack(ragged_queries(), SETTINGS)
    values = []
    for layout in ("sequence", "cache", "pointwise"):
        torch.manual_seed(0)
        context = StepContext(
            batch, node_logprobs(model, batch, layout, keep="logits"), 0, node_logprobs, node_logprobs
        )
        values.append(Consistency(MODES[name])(context).loss_sum.item())
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ConsistencySettings(-1.0, "target", "greedy"), "weight=-1.0 must be a finite number"),
        (ConsistencySettings(1.0, "target"), "free_run goes with mode=literal and target"),
        (ConsistencySettings(1.0, "marginal", "greedy"), "free_run goes with mode=literal and target"),
        (ConsistencySettings(1.0, "literal", "greedy"), "stop_gradient goes with mode=literal"),
        (ConsistencySettings(1.0, "target", "greedy", "tf"), "stop_gradient goes with mode=literal"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"mitigations.consistency.{message}"):
        settings.check()


@pytest.mark.parametrize("name", ["wordnet_alpha2,consistency", "wordnet_beta2,scheduled_sampling,consistency"])
def test_a_recipe_with_the_overlay_trains(tmp_path, name):
    recipe = tiny_recipe(tmp_path, "training.logging_steps=1", recipe=name)
    trainer = build_trainer(recipe)
    trainer.train()
    logs = [entry["consistency"] for entry in trainer.state.log_history if "consistency" in entry]
    assert len(logs) == 3
    assert all(value > 0 for value in logs)
