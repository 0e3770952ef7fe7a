"""Block 1: its loss is the library's, methods without effect are teacher forcing, and the paper's 0.0547 is found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stoical.decoding.walks import gold_child, spelled, visited
from stoical.objectives.mitigations.consistency import target_kl
from stoical.objectives.objective import weighted_nll
from stoical.studies.mismatch import compat
from stoical.studies.mismatch.compat import METHODS, evaluate, new_model, own_tokens, queries_of, step_kl, train
from stoical.studies.mismatch.worlds import generator, random_docids
from tests.studies.worlds import LENGTH, SMALL


def changed(**settings):
    return replace(SMALL, compat=replace(SMALL.compat, **settings))


@pytest.fixture(scope="module")
def worlds():
    return [compat._world(SMALL, number) for number in range(3)]


@pytest.fixture(scope="module")
def batches(worlds):
    return [queries_of(worlds, range(start, start + 5), SMALL.compat.beta) for start in range(0, 20, 5)]


def trained(worlds, batches, name, settings=SMALL):
    model = new_model(settings, worlds, 0)
    losses = train(model, batches, settings, name, 0)
    return dict(model.named_parameters()), losses


def test_its_kl_is_the_librarys_on_the_same_tries(worlds, batches):
    """KL(q || p) at the gold path's prefixes and at those of a mixed run, and its gradient."""
    model, queries = new_model(SMALL, worlds, 0), batches[0]
    batch = queries.batch
    for gold in (1.0, 0.6):
        tokens = own_tokens(model, queries, gold, sampled=True)
        run = spelled(batch, tokens.flatten(0, 1))
        logprobs = model.chain(queries.places, tokens).log_softmax(-1).flatten(0, 1).detach().requires_grad_()
        ours = step_kl(batch, logprobs, compat.after(batch, run))[0].sum()
        by_node = logprobs[batch.node_row, (batch.node_depth - 1).clamp(min=0), batch.node_token.clamp(min=0)]
        library = target_kl(batch, by_node, run)
        assert ours.item() == pytest.approx(library.item(), rel=1e-6)
        gradients = [torch.autograd.grad(value, logprobs, retain_graph=True)[0] for value in (ours, library)]
        assert torch.allclose(*gradients, atol=1e-6)
    weights = torch.where(visited(batch, gold_child(batch))[0][batch.node_parent], batch.node_weights, 0.0)
    assert torch.equal(weights, batch.node_weights)  # teacher forcing's cross-entropy is the SToICaL loss
    forced = step_kl(batch, logprobs, queries.forced)[0].sum() - torch.xlogy(weights, weights).sum()
    assert forced.item() == pytest.approx(weighted_nll(by_node, batch.node_weights).item(), rel=1e-6)


def test_uniform_predictions_have_the_closed_form(batches):
    queries = batches[0]
    logprobs = torch.full((15, LENGTH, SMALL.vocabulary), -math.log(SMALL.vocabulary))
    kl, alive = step_kl(queries.batch, logprobs, queries.forced)
    entropy = torch.zeros(15, LENGTH)
    batch = queries.batch
    target = batch.node_target[queries.forced]
    place = batch.node_row[queries.forced], batch.node_depth[queries.forced] - 1
    entropy.index_put_(place, -target * target.log(), accumulate=True)
    assert torch.allclose(kl, math.log(SMALL.vocabulary) - entropy, atol=1e-5)
    assert alive.all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Sched. Sampling", changed(minimum=1.0)), ("Consistency Reg.", changed(consistency_weight=0.0))],
)
def test_without_effect_it_is_teacher_forcing_bit_for_bit(worlds, batches, name, settings):
    forced, losses = trained(worlds, batches, "Teacher Forcing")
    ours, own_losses = trained(worlds, batches, name, settings)
    assert all(torch.equal(ours[key], forced[key]) for key in forced)
    assert np.array_equal(losses, own_losses)


def test_the_first_tokens_parameters_are_the_same_under_all_methods(worlds, batches):
    """Why the paper's KL at t = 1 agrees: where positions share nothing, no method touches the first one's."""
    found = [trained(worlds, batches, name)[0] for name in METHODS]
    for other in found[1:]:
        assert torch.equal(other["bias.0"], found[0]["bias.0"])
        assert not torch.equal(other["after.0"], found[0]["after.0"])


def test_off_trie_conventions(worlds, batches):
    model, tested = new_model(SMALL, worlds, 0), batches[0]
    found = {kind: evaluate(model, tested, changed(off_trie=kind)) for kind in ("zero", "uniform", "mask")}
    alive = found["zero"]["alive"]
    assert (np.diff(alive, axis=1) <= 0).all()
    assert alive[:, -1].max() < 1
    gap = {kind: values["mismatch"] + values["kl_tf"].mean(axis=1) for kind, values in found.items()}
    assert (gap["zero"] < gap["uniform"]).all()
    assert np.allclose(gap["mask"], found["zero"]["kl_ar"].sum(axis=1) / alive.sum(axis=1), rtol=1e-5)


def test_reductions_differ_by_the_vocabulary(worlds, batches):
    model = new_model(SMALL, worlds, 0)
    mean, total = (evaluate(model, batches[0], changed(reduction=kind)) for kind in ("mean", "sum"))
    assert np.allclose(SMALL.vocabulary * mean["kl_tf"], total["kl_tf"], rtol=1e-5)
    assert np.array_equal(mean["ar_quality"], total["ar_quality"])


def test_a_run_is_what_one_token_at_a_time_writes(worlds, batches):
    """Greedy, of the recurrent model, which sees query and prefix."""
    settings = changed(model="recurrent")
    model, queries = new_model(settings, worlds, 0), batches[1]
    tokens = own_tokens(model, queries, 0.0, sampled=False)
    for step in range(LENGTH):
        logits = model.chain(queries.places, tokens)
        assert torch.equal(logits[:, :, step].argmax(-1), tokens[:, :, step])


@pytest.mark.parametrize(
    "settings", [{"generator": "hierarchical"}, {"model": "recurrent"}, {"held_out": True, "optimizer": "sgd"}]
)
def test_every_method_is_measured_and_repeats(settings):
    first, again = (compat.simulate(changed(**settings), 0) for _ in range(2))
    assert list(first) == [*METHODS, "chance", "modal token"]
    for name, measured in first.items():
        for key, values in measured.items():
            assert np.isfinite(values).all()
            assert np.array_equal(values, again[name][key])
        assert len(measured["ar_quality"]) == 3


def test_the_modal_token_scores_what_the_paper_reports_for_teacher_forcing():
    """The paper's 0.0547: the commonest token of 500 top documents at each position, on new queries, 200 docIDs."""
    shares = []
    for seed in range(400):
        random = generator(seed, 99)
        docids = random_docids(random, 200, 6, 32)
        tops = docids[random.integers(200, size=500)]
        modal = [np.bincount(tops[:, step]).argmax() for step in range(6)]
        shares.append((docids == modal).mean())
    assert np.mean(shares) == pytest.approx(0.0547, abs=5e-4)
