"""Several docIDs of rank 1: what replaces the loss on the top docID's path follows all of them, as the loss does."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from stoical.decoding.walks import docid_ends, gold_child, top_docs, visited
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.objectives.mitigations.gold_position import gold_position_loss
from stoical.objectives.mitigations.mixer import Mixer, MixerSettings, forced_steps, taught_weights
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSampling, ScheduledSamplingSettings
from stoical.objectives.mitigations.soft_mixtures import SoftSampling, SoftSamplingSettings
from stoical.objectives.mitigations.top_docids import context_apart, take_apart
from stoical.objectives.objective import StepContext
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.trie.node_weights import TargetSettings
from tests.support.contexts import Context
from tests.support.gradients import loss_and_gradient
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import ragged_queries
from tests.support.tiny_model import tiny_model

PATH_LOSSES = {"one_hot": TargetSettings(), "trie": TargetSettings(token="trie", beta=2.0)}
PARALLEL = {"method": "parallel", "passes": 2}
CONFIDENT = {"gold_confidence": 0.2, "random_confidence": 0.6}
LITERAL = PARALLEL | {"target": "gold_position", "source": "free"}
WAYS = {
    "sequential": {},
    "free": {"source": "free"},
    "parallel": PARALLEL,
    "expected": {"method": "expected"},
    "confidence": CONFIDENT,
    "literal": LITERAL,
}
MIXERS = {"warm-up": MixerSettings(warmup=10), "all tokens taught": MixerSettings(forced=99)}


def constant(gold: float, **way: object) -> ScheduledSampling:
    return ScheduledSampling(ScheduledSamplingSettings("constant", minimum=gold, **way))


def tied(query: TokenizedQuery, tops: int) -> TokenizedQuery:
    """The query with its first `tops` documents of rank 1."""
    ranks = [1 if place < min(tops, query.num_listed) else rank for place, rank in enumerate(query.ranks)]
    return replace(query, ranks=ranks)


def tied_queries(**kwargs: object) -> list[TokenizedQuery]:
    """Lists with 3, 1 and 5 documents of rank 1, of different lengths, some prefixes of others; with negatives."""
    ragged = ragged_queries(negatives=2, **kwargs)
    return [tied(query, tops) for query, tops in zip(ragged, (3, 2, 5), strict=True)]


def reordered(query: TokenizedQuery, seed: int) -> TokenizedQuery:
    """The same query, its documents of rank 1 in another order."""
    order = sorted(range(len(query.docids)), key=lambda place: (query.ranks[place] > 1, place))
    tops = query.ranks[: query.num_listed].count(1)
    order[:tops] = random.Random(seed).sample(order[:tops], tops)
    moved = {name: [getattr(query, name)[place] for place in order] for name in ("docids", "docid_ids", "counted")}
    return replace(query, **moved)


@pytest.mark.parametrize("objective", [*(constant(1.0, **way) for way in WAYS.values()), *map(Mixer, MIXERS.values())])
@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("loss", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_with_gold_tokens_it_is_teacher_forcing_bit_for_bit(objective, count, loss):
    queries = tied_queries(count_terminator=count)
    ours, gradient = loss_and_gradient(objective, queries, loss, step=5)
    forced, forced_gradient = loss_and_gradient(SToICaLLoss(loss), queries, loss)
    assert torch.equal(ours.loss_sum, forced.loss_sum)
    assert torch.equal(gradient, forced_gradient)
    assert ours.logs.get("off_gold_path", 0.0) == ours.logs.get("off_trie_rate", 0.0) == 0


@pytest.mark.parametrize("kind", ["soft", "straight_through"])
def test_soft_mixtures_with_gold_tokens_are_teacher_forcing(kind):
    settings = SoftSamplingSettings(schedule="constant", minimum=1.0, mixture=kind)
    ours, gradient = loss_and_gradient(SoftSampling(settings), tied_queries(), PATH_LOSSES["trie"])
    forced, forced_gradient = loss_and_gradient(SToICaLLoss(PATH_LOSSES["trie"]), tied_queries(), PATH_LOSSES["trie"])
    assert torch.equal(ours.loss_sum, forced.loss_sum)
    assert torch.equal(gradient, forced_gradient)


@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("loss", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_almost_only_gold_tokens_are_almost_teacher_forcing(loss, count):
    """So that a run does not jump when its schedule leaves 1: all of the top docIDs are followed, by every method."""
    queries, gold = tied_queries(count_terminator=count), 1 - 1e-9
    forced, forced_gradient = loss_and_gradient(SToICaLLoss(loss), queries, loss)
    soft = SoftSampling(SoftSamplingSettings(schedule="constant", minimum=gold))
    for objective in (*(constant(gold, **way) for way in WAYS.values()), soft):
        torch.manual_seed(0)
        ours, gradient = loss_and_gradient(objective, queries, loss)
        assert ours.loss_sum.item() == pytest.approx(forced.loss_sum.item(), rel=1e-5)
        assert (gradient - forced_gradient).norm() < 1e-5 * forced_gradient.norm()


def test_a_batch_without_ties_stays_as_it_is():
    batch = pack(ragged_queries(negatives=2))
    apart = take_apart(batch)
    assert apart.batch is batch
    assert torch.equal(apart.origin, torch.arange(len(batch.node_token)))
    on_gold = visited(batch, gold_child(batch))[0]
    assert torch.equal(apart.paths > 0, on_gold)
    context = StepContext(batch, node_logprobs(tiny_model(), batch, keep="logits"), 0, node_logprobs, node_logprobs)
    assert context_apart(context, apart) is context


@pytest.mark.parametrize("count", [True, False])
def test_every_row_taken_apart_is_its_query_with_one_of_the_top_docids(count):
    queries = tied_queries(count_terminator=count)
    batch = pack(queries)
    apart = take_apart(batch)
    one = apart.batch
    model = tiny_model()
    whole = node_logprobs(model, batch).logprobs
    assert torch.allclose(node_logprobs(model, one).logprobs, whole[apart.origin], atol=1e-5)
    gold = visited(one, gold_child(one))[0]
    found, paths = [], torch.zeros(len(whole))
    for row in range(len(one.query_ids)):
        nodes = (gold & (one.node_row == row)).nonzero()[:, 0]
        found.append((one.query_ids[row], prefix_of(one, int(nodes[-1]))))
        paths[apart.origin[nodes]] += 1
        for node in nodes.tolist():
            assert prefix_of(one, node) == prefix_of(batch, int(apart.origin[node]))
    tops = [(query.query_id, tuple(ids)) for query in queries for ids in query.docid_ids[: query.ranks.count(1)]]
    assert sorted(found) == sorted(tops)
    assert len(found) == 3 + 1 + 5
    assert torch.equal(apart.paths, paths)
    assert torch.allclose(apart.summed(one.node_weights), batch.node_weights)
    assert [one.query_ids[row] for row in one.doc_query] == [
        query.query_id for query in queries for _ in range(query.ranks.count(1)) for _ in query.docids
    ]
    assert torch.equal(apart.origin[docid_ends(one)], docid_ends(batch)[doc_copies(batch, one)])


def doc_copies(batch, one):
    """The place in the whole batch of every docID of the batch taken apart."""
    rows = [one.query_ids.index(name) for name in dict.fromkeys(one.query_ids)]
    first = dict(zip(dict.fromkeys(one.query_ids), rows, strict=True))
    sizes = {name: int((one.doc_query == row).sum()) for name, row in first.items()}
    starts = {name: int((batch.doc_query < place).sum()) for place, name in enumerate(first)}
    return torch.tensor([starts[name] + place for name in one.query_ids for place in range(sizes[name])])


def test_the_order_of_the_list_changes_nothing():
    """Equal draws for equal tries: losses and gradients are those of the list in another order."""
    objectives = [constant(0.3, **way) for way in WAYS.values()] + [Mixer(MixerSettings(stage=1))]
    batch = pack(tied_queries())
    assert torch.equal(docid_ends(batch)[top_docs(batch)], docid_ends(batch)[top_docs(batch)].sort().values)
    for seed, objective in enumerate(objectives):
        results = []
        for queries in (tied_queries(), [reordered(query, seed) for query in tied_queries()]):
            torch.manual_seed(seed)
            results.append(loss_and_gradient(objective, queries, PATH_LOSSES["trie"], step=2))
        (first, gradient), (second, other) = results
        assert first.loss_sum.item() == pytest.approx(second.loss_sum.item(), rel=1e-5)
        assert (gradient - other).norm() < 1e-5 * gradient.norm()


def test_the_expected_loss_of_a_query_is_the_sum_over_its_top_docids():
    """Each has a walk of its own expert; on all their paths the target is the recipe's, shared among those there."""
    (query,) = [tied(query, 3) for query in ragged_queries()[2:]]
    batch = pack([query], PATH_LOSSES["trie"])
    model, gold = tiny_model(), 0.6
    output = node_logprobs(model, batch, keep="logits")
    found = constant(gold, method="expected")(StepContext(batch, output, 0, node_logprobs, node_logprobs))
    logprobs = {prefix_of(batch, node): output.logprobs[node].item() for node in range(len(batch.node_token))}
    docids = [tuple(ids) for ids in query.docid_ids]
    tokens = {prefix: sorted({p[-1] for p in logprobs if p[:-1] == prefix and p}) for prefix in logprobs}
    mass = {
        prefix: sum(rank**-2.0 for ids, rank in zip(docids, query.ranks, strict=True) if ids[: len(prefix)] == prefix)
        for prefix in logprobs
    }

    def expert(prefix, own):
        """The next token of the walk's own docID on its path, else of the best-ranked docID below, first of equals."""
        if own[: len(prefix)] == prefix:
            return own[len(prefix)]
        below = [(r, d) for r, d in zip(query.ranks, docids, strict=True) if d[: len(prefix)] == prefix]
        best = min(r for r, _ in below)
        return min(d[len(prefix)] for r, d in below if r == best)

    def loss(prefix, weight, own):
        if not tokens[prefix]:
            return 0.0
        total = -weight * sum(mass[(*prefix, t)] / mass[prefix] * logprobs[(*prefix, t)] for t in tokens[prefix])
        probs = {t: torch.tensor(logprobs[(*prefix, t)]).exp().item() for t in tokens[prefix]}
        for token in tokens[prefix]:
            step = gold * (token == expert(prefix, own)) + (1 - gold) * probs[token] / sum(probs.values())
            total += loss((*prefix, token), weight * step, own)
        return total

    assert found.loss_sum.item() == pytest.approx(sum(loss((), 1.0, own) for own in docids[:3]), rel=1e-4)


@pytest.mark.parametrize("passes", [1, 3])
def test_the_literal_version_makes_a_prefix_a_top_docid_in_one_forward(passes):
    calls = []
    batch = pack(tied_queries(), PATH_LOSSES["trie"])

    def run(kind):
        return lambda other: (
            calls.append((kind, len(other.query_ids))) or node_logprobs(tiny_model(), other, keep="logits")
        )

    context = StepContext(batch, node_logprobs(tiny_model(), batch, keep="logits"), 0, run("forward"), run("predict"))
    _, weights, _ = gold_position_loss(context, 0.5, passes, None)
    assert calls == [("predict", 9)] * (passes - 1) + [("forward", 9)]
    assert weights.item() == pytest.approx(batch.node_weights.sum().item(), rel=1e-6)


@pytest.mark.parametrize("count", [True, False])
def test_mixer_teaches_each_top_docid_as_far_as_it_should(count):
    """By loop: of a node's weight, the share of the top docIDs through its parent that are led down to it."""
    queries = [tied(query, 9) for query in ragged_queries(count_terminator=count)]
    parted = 0
    for loss in PATH_LOSSES.values():
        batch = pack(queries, loss)
        apart = take_apart(batch)
        for own in range(5):
            forced = forced_steps(apart.batch, own, 1)
            weights = taught_weights(batch, apart, forced)
            for node in range(len(weights)):
                prefix, query = prefix_of(batch, node), queries[int(batch.node_row[node])]
                tops = [tuple(ids) for ids in query.docid_ids[: query.ranks.count(1)]]
                through = [ids for ids in tops if prefix and ids[: len(prefix) - 1] == prefix[:-1]]
                led = [ids for ids in through if len(prefix) <= min(len(ids), max(1, len(ids) - own))]
                share = len(led) / len(through) if through else 0.0
                assert weights[node].item() == pytest.approx(batch.node_weights[node].item() * share, rel=1e-5)
                parted += 0 < share < 1 and weights[node].item() > 0
    assert parted > 5, "nodes to which some of the docIDs are led, and others walk"


def test_mixer_without_taught_tokens_draws_from_every_top_docid_alike():
    """The walks start at the root: as many policy gradients as top docIDs, each of the same expectation."""
    batch = pack([tied(ragged_queries()[0], 3)], PATH_LOSSES["trie"])
    single = pack([ragged_queries()[0]], PATH_LOSSES["trie"])
    gradients = {}
    for name, packed in (("tied", batch), ("single", replace(batch, doc_rank=single.doc_rank))):
        torch.manual_seed(0)
        drawn = []
        for _ in range(300):
            logprobs = made_up_logprobs(packed).requires_grad_()
            Mixer(MixerSettings(stage=1, reward="gain"))(Context(packed, logprobs, step=99)).loss_sum.backward()
            drawn.append(logprobs.grad)
        gradients[name] = torch.stack(drawn)
    mean, error = gradients["tied"].mean(0), gradients["tied"].std(0) / 300**0.5
    other, more = gradients["single"].mean(0), gradients["single"].std(0) / 300**0.5
    assert ((mean - 3 * other).abs() <= 4 * (error**2 + 9 * more**2).sqrt() + 1e-9).all()
    assert mean.abs().max() > 1e-2
