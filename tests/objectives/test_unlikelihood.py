"""Unlikelihood: candidates by loops, the closed-form gradient, and the collective term above the sum over tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.decoding.walks import valid_logmass
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import NodeOutput, node_logprobs
from stoical.objectives.mitigations.unlikelihood import (
    LEAST,
    Unlikelihood,
    UnlikelihoodSettings,
    log_complement,
    previous_tokens,
    sibling_candidates,
    trained_prefixes,
    unlikelihood,
    wrong_predictions,
)
from stoical.objectives.objective import StepContext, normalizer
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.trie.node_weights import TargetSettings
from tests.support.gradients import first_gradient
from tests.support.made_up import made_up_output
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import ragged_queries, random_query
from tests.support.tiny_model import VOCAB, tiny_model
from tests.support.tiny_recipe import tiny_recipe

LOSSES = {
    "one_hot": TargetSettings(),
    "trie": TargetSettings(token="trie", beta=2.0),
    "item": TargetSettings("fractional", 1.0),
    "every_node": TargetSettings(token="every_node", beta=2.0, visits="uniform"),
}
TOKENS = ["invalid", "siblings", "wrong_prediction", "literal"]
# docIDs whose tokens repeat: "5 6 5 6"; a negative that leaves at the root, and one that leaves late
REPEATING = TokenizedQuery(
    "q9",
    [1, 4, 9],
    ["a", "b", "n", "m"],
    [[5, 6, 5, 6, 2], [5, 6, 6, 7, 2], [5, 6, 5, 5, 2], [8, 2]],
    [5, 5, 5, 2],
    [1, 2, 3, 3],
    num_negatives=2,
)


def made_up_context(batch, seed=0):
    return StepContext(batch, made_up_output(batch, seed), 0, node_logprobs, node_logprobs)


def loop_prefixes(query, batch, row=0):
    """{prefix: (weight, {valid token: target share})} of the query, by loops over nodes."""
    found = {}
    for node in range(len(batch.node_token)):
        if batch.node_token[node] >= 0 and batch.node_row[node] == row:
            *prefix, token = prefix_of(batch, node)
            weight, valid = found.setdefault(tuple(prefix), [0.0, {}])
            found[tuple(prefix)][0] = weight + batch.node_weights[node].item()
            if any(ids[: len(prefix) + 1] == [*prefix, token] for ids in query.docid_ids[: query.num_listed]):
                valid[token] = batch.node_target[node].item()
    return {prefix: (weight, valid) for prefix, (weight, valid) in found.items() if weight > 0}


def loop_candidates(kind, query, prefix, valid, probs):
    """The tokens that a reader of the module's docstring would name; probs [V] of the next token."""
    wanted = {token for token, share in valid.items() if share > 0}
    if kind == "siblings":
        after = {
            ids[len(prefix)] for ids in query.docid_ids if len(ids) > len(prefix) and ids[: len(prefix)] == [*prefix]
        }
        return after - set(valid)
    if kind == "wrong_prediction":
        return {int(probs.argmax())} - wanted
    return set(prefix) - wanted


def loop_term(kind, query, batch, output, row=0):
    """The term as the docstring has it, in float64, with the candidates as (prefix, token)."""
    total, candidates = torch.zeros((), dtype=torch.float64), set()
    at = {prefix_of(batch, node): node for node in range(len(batch.node_token)) if batch.node_row[node] == row}
    for prefix, (weight, valid) in loop_prefixes(query, batch, row).items():
        child = at[(*prefix, next(iter(valid)))]
        probs = output.logits[output.row[child], output.slot[child]].double().softmax(-1)
        if kind == "invalid":
            total = total - weight * sum(probs[token] for token in valid).log()
            continue
        for token in loop_candidates(kind, query, prefix, valid, probs):
            total = total - weight * (1 - probs[token]).log()
            candidates.add((prefix, token))
    return total, candidates


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("count_terminator", [True, False])
def test_value_and_gradient_by_loop(kind, loss, count_terminator):
    """Against the definition: value to 1e-6 (float32 weights), gradient of the logits, and some candidates at all."""
    found = 0
    queries = [random_query(s, docs=7, negatives=3, count_terminator=count_terminator) for s in range(4)]
    for query in [*queries, REPEATING]:
        batch = pack([query], loss)
        context = made_up_context(batch, seed=len(query.docids))
        expected, candidates = loop_term(kind, query, batch, context.output)
        term = Unlikelihood(UnlikelihoodSettings(0.5, kind), loss)(context)
        assert term.loss_sum.item() == pytest.approx(0.5 * expected.item(), rel=1e-6, abs=1e-12)
        assert term.logs["unlikelihood"] == pytest.approx(expected.item(), rel=1e-6, abs=1e-12)
        found += len(candidates)
        if expected.requires_grad:
            ours, theirs = (
                torch.autograd.grad(value, context.output.logits, retain_graph=True)[0]
                for value in (term.loss_sum, 0.5 * expected)
            )
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)
            assert theirs.abs().max() > 0
    assert found or kind == "invalid"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 5), st.sampled_from(list(LOSSES)), st.booleans())
def test_gold_is_never_a_candidate(seed, docs, negatives, name, count_terminator):
    """Nor any token with target mass, nor one that leads to a listed docID among the siblings; none comes twice."""
    loss = LOSSES[name]
    query = random_query(seed, docs=docs, negatives=negatives, count_terminator=count_terminator)
    batch = pack([query], loss)
    prefixes, total = trained_prefixes(batch, batch.node_weights)
    by_loop = loop_prefixes(query, batch)
    assert {prefix_of(batch, int(n)) for n in prefixes} == set(by_loop)
    assert total.tolist() == pytest.approx([by_loop[prefix_of(batch, int(n))][0] for n in prefixes], rel=1e-6)
    logprobs = torch.randn(len(prefixes), VOCAB, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    logprobs[:, 3:7] += 3  # what docIDs are made of
    for kind, (place, token) in {
        "siblings": sibling_candidates(batch, prefixes),
        "wrong_prediction": wrong_predictions(batch, prefixes, logprobs),
        "literal": previous_tokens(batch, prefixes),
    }.items():
        ours = [(prefix_of(batch, int(prefixes[p])), int(t)) for p, t in zip(place, token, strict=True)]
        expected = {
            (prefix, candidate)
            for p, (prefix, (_, valid)) in zip(
                range(len(prefixes)),
                ((prefix_of(batch, int(n)), by_loop[prefix_of(batch, int(n))]) for n in prefixes),
                strict=True,
            )
            for candidate in loop_candidates(kind, query, prefix, valid, logprobs[p])
        }
        assert len(ours) == len(set(ours))
        assert set(ours) == expected, kind
        assert not any(by_loop[prefix][1].get(token, 0) > 0 for prefix, token in ours)


def test_the_literal_candidates_by_hand():
    """After "5 6 5" the gold token 6 is spared though it came before, 5 is not; after "5", nothing but 5."""
    batch = pack([REPEATING], LOSSES["one_hot"])
    prefixes, _ = trained_prefixes(batch, batch.node_weights)
    place, token = previous_tokens(batch, prefixes)
    found = sorted((prefix_of(batch, int(prefixes[p])), int(t)) for p, t in zip(place, token, strict=True))
    assert found == [((5,), 5), ((5, 6), 6), ((5, 6, 5), 5), ((5, 6, 5, 6), 5), ((5, 6, 5, 6), 6)]


def test_gradient_is_the_closed_form():
    """d/dz of -log(1 - p_c) is p_c / (1 - p_c) (e_c - p), times the weight; float64, two candidates in one row."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(3, VOCAB, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    place, token = torch.tensor([0, 1, 1]), torch.tensor([4, 8, 15])
    unlikelihood(logits.log_softmax(-1), (place, token), weights).backward()
    probs, closed = logits.detach().softmax(-1), torch.zeros_like(logits)
    for row, candidate in zip(place.tolist(), token.tolist(), strict=True):
        p = probs[row, candidate]
        closed[row] += weights[row] * p / (1 - p) * (torch.eye(VOCAB, dtype=torch.float64)[candidate] - probs[row])
    assert torch.allclose(logits.grad, closed, rtol=1e-9, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 6.0), st.integers(0, 3))
def test_tokens_one_by_one_are_a_lower_bound_of_the_collective_term(seed, sharpness, negatives):
    """prod(1 - p_c) >= 1 - sum p_c over all invalid tokens c, at every prefix, negatives' tokens among them."""
    query = random_query(seed, docs=5, negatives=negatives)
    batch = pack([query], LOSSES["trie"])
    made_up = made_up_output(batch, seed)
    logits = made_up.logits.detach() * sharpness
    logprobs = logits.log_softmax(-1)[0, made_up.slot, batch.node_token.clamp(min=0)]
    mass = valid_logmass(batch, logprobs)
    for prefix, (_, valid) in loop_prefixes(query, batch).items():
        node = next(n for n in range(1, len(mass)) if prefix_of(batch, n)[:-1] == prefix)
        row = logits[:, made_up.slot[node]].log_softmax(-1)
        invalid = torch.tensor([token for token in range(VOCAB) if token not in valid])
        one_by_one = unlikelihood(row, (torch.zeros_like(invalid), invalid), torch.ones(1, dtype=torch.float64))
        assert 0 < one_by_one.item() <= -mass[node].item() * (1 + 1e-9)


@settings(max_examples=300, deadline=None)
@given(st.floats(-90, -2e-5))
def test_the_complement_is_exact_near_both_ends(logp):
    """float32 against float64's log1p and expm1; a plain log(1 - exp(logp)) is 0 below -17 and off by 1% near 0."""
    logp = float(torch.tensor(logp))
    exact = math.log(-math.expm1(logp)) if logp > -1 else math.log1p(-math.exp(logp))
    assert log_complement(torch.tensor(logp)).item() == pytest.approx(exact, rel=1e-5, abs=1e-38)


def test_a_certain_token_costs_no_more_than_the_papers_clamp():
    """No infinity and no NaN, neither at p = 1 nor at p = 0; at p = 1 no gradient."""
    logp = torch.tensor([0.0, -1e-9, -1e-6, -math.inf, -1000.0]).requires_grad_()
    value = log_complement(logp)
    assert value[:3].tolist() == pytest.approx([math.log(LEAST)] * 3, rel=1e-6)
    assert value[3:].tolist() == [0, 0]
    value.sum().backward()
    assert logp.grad.tolist() == [0] * 5


@pytest.mark.parametrize("kind", TOKENS)
def test_extreme_and_low_precision_logits(kind):
    batch = pack([REPEATING], LOSSES["trie"])
    logits = made_up_output(batch).logits.detach() * 1000
    for dtype in (torch.float32, torch.bfloat16):
        given_logits = logits.to(dtype).requires_grad_()
        slot = made_up_output(batch).slot
        logprobs = given_logits.float().log_softmax(-1)[0, slot, batch.node_token.clamp(min=0)]
        logprobs = torch.where(batch.node_token >= 0, logprobs, 0.0)
        output = NodeOutput(logprobs, given_logits, torch.zeros_like(slot), slot)
        context = StepContext(batch, output, 0, node_logprobs, node_logprobs)
        term = Unlikelihood(UnlikelihoodSettings(1.0, kind), LOSSES["trie"])(context).loss_sum
        assert term.dtype == torch.float32
        assert term.isfinite()
        term.backward()
        assert given_logits.grad.isfinite().all()


def test_without_candidates_the_loss_is_the_base_loss():
    """Siblings without negatives, and the literal term on docIDs of one token: value and gradient, bit for bit."""
    short = TokenizedQuery("q1", [1, 5, 7], ["a", "b"], [[5, 2], [6, 2]], [1, 1], [1, 2])
    for kind, query in (("siblings", random_query(1)), ("literal", short)):
        gradients = []
        for terms in ([], [Unlikelihood(UnlikelihoodSettings(3.0, kind), LOSSES["item"])]):
            model, batch = tiny_model(), pack([query], LOSSES["item"])
            context = StepContext(batch, node_logprobs(model, batch, keep="logits"), 0, node_logprobs, node_logprobs)
            loss = sum(term(context).loss_sum for term in [SToICaLLoss(LOSSES["item"]), *terms])
            loss.backward()
            gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_prefixes_count_as_they_do_in_the_loss():
    """Under `reach`, times the model's probability of being there; the loss and the invalid term share the weights."""
    loss = TargetSettings(token="every_node", beta=2.0, visits="reach")
    batch = pack([random_query(3, docs=8, negatives=2)], loss)
    context = made_up_context(batch)
    invalid = Unlikelihood(UnlikelihoodSettings(1.0, "invalid"), loss)(context).loss_sum
    within = made_up_context(batch)
    renormalised = within.output.logprobs - valid_logmass(batch, within.output.logprobs)
    alone = StepContext(
        batch, NodeOutput(renormalised, within.output.logits, within.output.row, within.output.slot), 0, None, None
    )
    losses = [SToICaLLoss(loss)(each).loss_sum.item() for each in (context, alone)]
    assert invalid.item() == pytest.approx(losses[0] - losses[1], rel=1e-6), "CE(q, p) = CE(q, p~) - log P_valid"
    assert normalizer(batch, "queries") == 1


@pytest.mark.parametrize("kind", TOKENS)
def test_layouts_agree(kind):
    model, batch = tiny_model(), pack([*ragged_queries(negatives=2), REPEATING], LOSSES["item"])
    values = []
    for layout in ("sequence", "cache", "pointwise"):
        context = StepContext(
            batch, node_logprobs(model, batch, layout, keep="logits"), 0, node_logprobs, node_logprobs
        )
        values.append(Unlikelihood(UnlikelihoodSettings(1.0, kind), LOSSES["item"])(context).loss_sum.item())
    assert values[0] > 0
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-4)


@pytest.mark.parametrize("kind", TOKENS)
def test_accumulation_changes_nothing(tmp_path, kind):
    words = [f"mitigations.unlikelihood.tokens={kind}", f"data.num_negatives={3 * (kind == 'siblings')}"]
    words += ["training.max_steps=1", "training.max_grad_norm=0"]
    whole, cut = (
        first_gradient(
            tiny_recipe(
                tmp_path, *words, f"training.per_device_train_batch_size={size}", recipe="wordnet_alpha2,unlikelihood"
            )
        )
        for size in (8, 4)
    )
    assert (cut - whole).norm() < 1e-6 * max(1, whole.norm())
    assert whole.norm() > 1e-3


def test_a_bad_weight_is_named():
    with pytest.raises(ValueError, match=r"mitigations.unlikelihood.weight=-1.0 must be a finite number"):
        UnlikelihoodSettings(weight=-1.0).check()
