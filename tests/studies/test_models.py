"""Replicated models: each replication's log-probabilities by a slow loop, and none reaches another's."""

from __future__ import annotations

import pytest
import torch

from stoical.models.mixtures import Mixture
from stoical.objectives.mitigations.gold_position import gold_inputs, mixed_batch
from stoical.studies.mismatch.models import Bigram
from stoical.trie.node_weights import TargetSettings
from tests.studies.worlds import LENGTH, SMALL, bench
from tests.support.packed import prefix_of

TOP = TargetSettings(token="trie", beta=2.0)


def slow_logprobs(model, replication, query, prefix):
    """[V] of one replication's model after one prefix, in float64, a token at a time."""
    take = lambda weight: weight[replication].double()  # noqa: E731
    state = torch.tanh(model.features[replication, query].double() @ take(model.first) + take(model.about)[0])
    at = lambda step: 0 if model.shared else step  # noqa: E731
    for step, token in enumerate(prefix):
        moved = state @ take(model.again[at(step)]) + take(model.embed[at(step)])[token]
        state = torch.tanh(moved + take(model.offset[at(step)])[0])
    step = at(len(prefix))
    return (state @ take(model.out[step]) + take(model.bias[step])[0]).log_softmax(-1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("generator", ["hierarchical", "iid"])
def test_every_nodes_logprob_by_a_slow_loop(generator, shared):
    own = bench(generator=generator, shared=shared)
    model, batch = own.task.model(), own.batches(TOP, negatives=True)[1]
    output = model(batch)
    queries = model.features.shape[1]
    for node in (batch.node_token >= 0).nonzero()[:, 0].tolist():
        replication, query = divmod(int(batch.query_ids[batch.node_row[node]]), queries)
        *prefix, token = prefix_of(batch, node)
        slow = slow_logprobs(model, replication, query, prefix)
        assert output.logprobs[node].item() == pytest.approx(slow[token].item(), abs=1e-5)
        read = output.logits[output.row[node], output.slot[node]].log_softmax(-1)
        assert torch.allclose(read.double(), slow, atol=1e-5)
    assert (output.logprobs[batch.node_token < 0] == 0).all()


def test_a_chain_is_the_tries_path():
    own = bench()
    model, batch = own.task.model(), own.batches(TOP, negatives=False)[0]
    tokens = torch.stack([torch.from_numpy(world.docids[world.lists[0][:1]]) for world in own.task.worlds])
    logits = model.chain(torch.zeros(3, 1, dtype=torch.int64), tokens).log_softmax(-1)
    output = model(batch)
    for replication in range(3):
        path = batch.doc_path[(batch.doc_query == 3 * replication) & (batch.doc_rank == 1)][0]
        ours = logits[replication, 0].gather(1, tokens[replication, 0, :, None])[:, 0]
        assert torch.allclose(ours, output.logprobs[path], atol=1e-6)


def test_no_replication_reaches_anothers_gradient():
    own = bench()
    batch = own.batches(TOP, negatives=False)[0]
    gradients = []
    for change in (0.0, 1.0):
        model = own.task.model()
        with torch.no_grad():
            for weight in model.parameters():
                weight[2] += change
            model.features[2] += change
        (-(batch.node_weights * model(batch).logprobs).sum()).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one[:2], other[:2])
        assert not torch.equal(one[2], other[2]) or not one[2].any()


def test_one_replication_alone_is_what_it_is_among_others():
    own = bench()
    model, tests = own.task.model(), own.tests[0]
    whole = model.read(tests.batch, tests.plan)
    part = model.part([1])
    assert torch.equal(part.first[0], model.first[1])
    row = tests.plan.replication == 1
    from stoical.studies.mismatch.measures import tests_of
    from stoical.studies.mismatch.training import part_of

    (alone,) = tests_of(part_of(own.task, 1))
    assert torch.allclose(part.read(alone.batch, alone.plan).logprobs, whole.logprobs[row], atol=1e-6)


def test_a_mixture_of_one_token_is_the_token():
    own = bench()
    model, batch = own.task.model(), own.batches(TOP, negatives=False)[0]
    chain = gold_inputs(batch)
    mixed = mixed_batch(batch, chain, batch.node_token[chain])
    plain = model(mixed)
    tokens = torch.arange(SMALL.vocabulary)
    weights = torch.nn.functional.one_hot(batch.node_token[chain], SMALL.vocabulary).float()
    column = mixed.prompt_width + batch.node_depth[chain] - 1
    again = model(mixed, Mixture(batch.node_row[chain], column, tokens, weights))
    assert torch.allclose(again.logprobs, plain.logprobs, atol=1e-6)
    half = model(mixed, Mixture(batch.node_row[chain], column, tokens, weights / 2))
    assert not torch.allclose(half.logprobs, plain.logprobs, atol=1e-3)


def test_a_bigram_model_sees_the_last_token_alone():
    model = Bigram(torch.zeros(2, 1, 1), SMALL.vocabulary, LENGTH, 1.0, seed=0)
    tokens = torch.tensor([[[3, 1, 2, 0]], [[5, 1, 2, 0]]])
    logits = model.chain(torch.zeros(2, 1, dtype=torch.int64), tokens)
    for replication in range(2):
        for step in range(LENGTH):
            wanted = model.bias[step][replication]
            if step:
                wanted = wanted + model.after[step - 1][replication, tokens[replication, 0, step - 1]]
            assert torch.equal(logits[replication, 0, step], wanted)
