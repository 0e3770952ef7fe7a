"""Literal scheduled sampling: mixed prefixes packed anew, against plain forwards; parallel passes made sequential."""

from __future__ import annotations

import pytest
import torch

from stoical.decoding.walks import gumbel
from stoical.models.forward import node_logprobs
from stoical.objectives.mitigations.gold_position import (
    gold_inputs,
    gold_position_loss,
    mixed_batch,
    mixed_prefixes,
    off_trie_rate,
    replacements,
)
from stoical.objectives.mitigations.mixed_walks import Confidence
from stoical.objectives.objective import StepContext, weighted_nll
from stoical.trie.node_weights import TargetSettings
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries
from tests.support.tiny_model import VOCAB, tiny_model

SETTINGS = {"one_hot": TargetSettings(), "trie": TargetSettings(token="trie", beta=1.0)}


def context_of(model, batch, layout="sequence", calls=None):
    def run(kind, other):
        if calls is not None:
            calls.append(kind)
        return node_logprobs(model, other, layout, keep="logits")

    return StepContext(
        batch,
        node_logprobs(model, batch, layout, keep="logits"),
        0,
        lambda b: run("forward", b),
        lambda b: run("predict", b),
    )


def rows_of(batch, chain, tokens):
    """{query: its tokens}"""
    return [tokens[batch.node_row[chain] == row].tolist() for row in range(len(batch.query_ids))]


def plain_loss(model, queries, batch, tokens_by_query):
    """One ordinary forward a query over prompt and mixed tokens; the gold targets by position."""
    total = torch.zeros(())
    for row, (query, tokens) in enumerate(zip(queries, tokens_by_query, strict=True)):
        logits = model(torch.tensor([[*query.prompt_ids, *tokens]])).logits[0, len(query.prompt_ids) - 1 :]
        logprobs = logits.log_softmax(dim=-1)
        for node in ((batch.node_weights > 0) & (batch.node_row == row)).nonzero()[:, 0].tolist():
            token, position = int(batch.node_token[node]), int(batch.node_depth[node]) - 1
            total = total - batch.node_weights[node] * logprobs[position, token]
    return total


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_any_mixed_prefix_has_the_loss_and_gradient_of_plain_forwards(settings, layout, count_terminator):
    model, queries = tiny_model(), ragged_queries(count_terminator=count_terminator)
    batch = pack(queries, settings)
    chain = gold_inputs(batch)
    tokens = torch.randint(3, VOCAB, chain.shape, generator=torch.Generator().manual_seed(0))
    mixed = mixed_batch(batch, chain, tokens)
    loss = weighted_nll(node_logprobs(model, mixed, layout).logprobs, mixed.node_weights)
    expected = plain_loss(model, queries, batch, rows_of(batch, chain, tokens))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    packed, plain = gradient(model, loss), gradient(model, expected)
    assert (packed - plain).norm() < 1e-5 * plain.norm()


def test_no_place_asks_for_a_position_that_no_sequence_has():
    """The longest prompt has a short chain here, and padding after it."""
    batch = pack(ragged_queries()[:2], SETTINGS["trie"])
    chain = gold_inputs(batch)
    mixed = mixed_batch(batch, chain, batch.node_token[chain])
    lengths = mixed.prompt_lengths + mixed.node_counts
    assert int(mixed.prompt_lengths.max() + mixed.node_counts.max()) > int(lengths.max())
    assert int(mixed.position_ids.max()) == max(mixed.prompt_width, int(lengths.max())) - 1


def test_gold_tokens_make_teacher_forcing():
    model, queries = tiny_model(), ragged_queries()
    batch = pack(queries, SETTINGS["trie"])
    chain = gold_inputs(batch)
    gold = [query.docid_ids[0][:-1] for query in queries]
    assert rows_of(batch, chain, batch.node_token[chain]) == gold
    mixed = mixed_batch(batch, chain, batch.node_token[chain])
    loss = weighted_nll(node_logprobs(model, mixed).logprobs, mixed.node_weights)
    forced = weighted_nll(node_logprobs(model, batch).logprobs, batch.node_weights)
    assert loss.item() == pytest.approx(forced.item(), rel=1e-6)
    assert off_trie_rate(batch, batch.node_token[chain]) == 0


def test_off_trie_rate_counts_queries():
    batch = pack(ragged_queries(), SETTINGS["trie"])
    chain = gold_inputs(batch)
    tokens = batch.node_token[chain].clone()
    tokens[batch.node_row[chain] == 1] = 90  # in no docID
    assert off_trie_rate(batch, tokens) == pytest.approx(1 / 3)
    tokens[-1] = 90
    assert off_trie_rate(batch, tokens) == pytest.approx(2 / 3)


@pytest.mark.parametrize("gold", [0.0, 0.4])
def test_as_many_passes_as_inputs_are_sequential_sampling(gold):
    """Each token drawn after the mixed prefix before it, token by token, with the same random numbers."""
    model, queries = tiny_model(), ragged_queries()
    batch = pack(queries, SETTINGS["trie"])
    chain, context = gold_inputs(batch), context_of(model, batch)
    longest, differs = int(batch.node_depth[chain].max()), 0
    for seed in range(5):
        torch.manual_seed(seed)
        _, parallel = mixed_prefixes(context, gold, longest)
        torch.manual_seed(seed)
        replaced, _ = replacements(batch, chain, context.node_logprobs[chain].exp(), gold, None)
        noise = gumbel(torch.zeros(len(chain), VOCAB), walks=1)[0]
        sequential = []
        for row, query in enumerate(queries):
            tokens = list(query.prompt_ids)
            for place in (batch.node_row[chain] == row).nonzero()[:, 0].tolist():
                with torch.no_grad():
                    logits = model(torch.tensor([tokens])).logits[0, -1]
                own = int((logits + noise[place]).argmax())
                tokens.append(own if replaced[place] else int(batch.node_token[chain[place]]))
            sequential += tokens[len(query.prompt_ids) :]
        assert parallel.tolist() == sequential
        torch.manual_seed(seed)
        differs += mixed_prefixes(context, gold, 1)[1].tolist() != sequential
    assert differs > 0


@pytest.mark.parametrize("passes", [1, 3])
def test_passes_cost_what_they_should_on_every_process(passes):
    """The first pass is the forward that the context holds; the last forward, with a graph, is over the mixed prefixes.

    The number depends on nothing but the settings: processes that run different numbers of forwards would hang.
    """
    calls = []
    context = context_of(tiny_model(), pack(ragged_queries(), SETTINGS["trie"]), calls=calls)
    loss, tokens, logs = gold_position_loss(context, 0.5, passes, None)
    assert calls == ["predict"] * (passes - 1) + ["forward"]
    assert loss.requires_grad
    assert tokens.item() == pytest.approx(sum(len(query.docid_ids[0]) for query in ragged_queries()))
    assert 0 < logs["replaced_tokens"] < 1


def test_tokens_are_drawn_from_the_whole_vocabulary():
    """Without the gold token, the first token's frequencies are the model's, within 4 standard errors."""
    batch = pack(ragged_queries()[:1], SETTINGS["trie"])
    context = context_of(tiny_model(), batch)
    probs = context.output.logits[0, 0].softmax(dim=-1).detach()
    torch.manual_seed(0)
    count = 800
    drawn = torch.tensor([int(mixed_prefixes(context, 0.0, 1)[1][0]) for _ in range(count)])
    shares = torch.bincount(drawn, minlength=VOCAB) / count
    assert ((shares - probs).abs() < 4 * (probs * (1 - probs) / count).sqrt() + 1 / count).all()


def test_confidence_picks_gold_own_or_scrambled_tokens():
    batch = pack(ragged_queries(), SETTINGS["trie"])
    chain = gold_inputs(batch)
    own, row = batch.node_token[chain], batch.node_row[chain]
    sure = torch.linspace(1, 0, len(chain))
    torch.manual_seed(0)
    moved = torch.zeros(len(chain), dtype=torch.bool)
    for _ in range(50):
        predicted, fixed = replacements(batch, chain, sure, 0.0, Confidence(0.3, 0.7))
        assert torch.equal(predicted, (sure > 0.3) & (sure <= 0.7))
        assert torch.equal(fixed[sure <= 0.3], own[sure <= 0.3])
        for place in (sure > 0.7).nonzero()[:, 0].tolist():
            assert fixed[place] in own[row == row[place]]
        moved |= fixed != own
    assert moved.any()
    predicted, fixed = replacements(batch, chain, sure, 1.0, Confidence(0.3, 0.7))
    assert not predicted.any()
    assert torch.equal(fixed, own)
