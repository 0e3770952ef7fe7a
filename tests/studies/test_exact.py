"""Block 2: measures by brute force over docIDs, references with closed forms, and methods without effect."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stoical.evaluation.paper import gold_gains, ndcg
from stoical.objectives.build import MitigationSettings
from stoical.objectives.mitigations.consistency import ConsistencySettings
from stoical.objectives.mitigations.mixer import MixerSettings
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSamplingSettings
from stoical.studies.mismatch.exact import Benches, other_variants, run_method, tune
from stoical.studies.mismatch.measures import _modal, _read, joined, measured, measures, references
from stoical.studies.mismatch.methods import NAMES, Trial, methods
from stoical.studies.mismatch.training import own_weights, train
from stoical.studies.mismatch.worlds import generator, similar_world, split_docids
from stoical.trie.node_weights import TargetSettings
from tests.studies.worlds import LENGTH, SMALL, bench

TOP = TargetSettings(token="trie", beta=SMALL.exact.beta)
CURVES = ("kl_tf", "kl_ar", "alive", "mismatch_at", "tv", "off_corpus")  # measures of a position


def made_logits(tests, seed=0):
    """Logits at every prefix, [R, N, V]; no two alike."""
    random = torch.Generator().manual_seed(seed)
    width = int(tests.plan.place.max()) + 1
    return torch.randn(len(tests.numbers), width, SMALL.vocabulary, generator=random)


@pytest.fixture(scope="module")
def own():
    return bench()


def test_measures_by_brute_force_over_all_docids(own):
    """One query at a time, over every document of the corpus, from the definitions alone."""
    (tests,) = own.tests
    output = _read(tests, made_logits(tests))
    found = measures(tests, output)
    batch, beta = tests.batch, own.task.settings.beta
    wanted: dict[str, list[list[float]]] = {}
    for query in range(len(batch.query_ids)):
        docs = (batch.doc_query == query).nonzero()[:, 0]
        steps = [[output.logprobs[n].item() for n in batch.doc_path[d].tolist()] for d in docs.tolist()]
        ids = [tuple(batch.node_token[batch.doc_path[d]].tolist()) for d in docs.tolist()]
        ranks, off = batch.doc_rank[docs].tolist(), batch.doc_negative[docs].tolist()
        mass = [0.0 if none else rank**-beta for rank, none in zip(ranks, off, strict=True)]
        pi = [m / sum(mass) for m in mass]
        logp = [sum(row) for row in steps]
        step = {doc[: t + 1]: row[t] for doc, row in zip(ids, steps, strict=True) for t in range(LENGTH)}
        own_p = [math.prod(constrained(step, doc[:t], doc[t]) for t in range(LENGTH)) for doc in ids]
        assert sum(own_p) == pytest.approx(1)
        wanted.setdefault("docid_kl", []).append(
            sum(p * (math.log(p) - q) for p, q in zip(pi, logp, strict=True) if p > 0)
        )
        wanted.setdefault("expected_gain", []).append(sum(m * p for m, p in zip(mass, own_p, strict=True)))
        wanted.setdefault("valid_mass", []).append(sum(map(math.exp, logp)))
        gains = gold_gains(np.array(ranks), sum(off))
        wanted.setdefault("ndcg", []).append(ndcg(np.array(logp), gains))
        wanted.setdefault("recall@1", []).append(float(ranks[int(np.argmax(logp))] == 1))
        best: tuple[int, ...] = ()
        while len(best) < LENGTH:
            best = max({doc[: len(best) + 1] for doc in ids if doc[: len(best)] == best}, key=step.__getitem__)
        wanted.setdefault("greedy_recall@1", []).append(float(best == ids[ranks.index(1)]))
        for t in range(LENGTH):
            prefixes = {doc[:t] for doc in ids}
            pi_of, p_of = (below(probs, ids) for probs in (pi, own_p))
            kl = {n: node_kl(n, pi_of, step) for n in prefixes if pi_of(n) > 0}
            wanted.setdefault(f"kl_tf {t}", []).append(sum(pi_of(n) * kl[n] for n in kl))
            wanted.setdefault(f"alive {t}", []).append(sum(p_of(n) for n in kl))
            wanted.setdefault(f"common {t}", []).append(sum(p_of(n) * kl[n] for n in kl))
            longer = {doc[: t + 1] for doc in ids}
            wanted.setdefault(f"tv {t}", []).append(sum(abs(pi_of(n) - p_of(n)) for n in longer) / 2)
            staying = sum(math.exp(sum(step[n[: i + 1]] for i in range(t + 1))) for n in longer)
            wanted.setdefault(f"off_corpus {t}", []).append(1 - staying)
    means = {key: np.reshape(values, (3, -1)).mean(axis=1) for key, values in wanted.items()}
    for key, values in means.items():
        name, _, step_name = key.partition(" ")
        if name == "common":
            ours = found["kl_ar"][:, int(step_name)] * found["alive"][:, int(step_name)]
        else:
            ours = found[name][:, int(step_name)] if step_name else found[name]
        assert ours == pytest.approx(values, abs=1e-6), key
    assert (np.diff(found["alive"], axis=1) <= 1e-12).all()
    assert found["kl_tf"].sum(axis=1) == pytest.approx(found["docid_kl"])
    assert found["mismatch_at"][:, 0] == pytest.approx(0, abs=1e-6)


def below(probs, ids):
    """The probability of a prefix: that of the docIDs it leads to."""
    return lambda node: sum(p for p, doc in zip(probs, ids, strict=True) if doc[: len(node)] == node)


def constrained(step, prefix, token):
    family = [value for node, value in step.items() if node[:-1] == prefix]
    return math.exp(step[(*prefix, token)]) / sum(map(math.exp, family))


def node_kl(prefix, pi_of, step):
    total = 0.0
    for node, logp in step.items():
        if node[:-1] == prefix and pi_of(node) > 0:
            share = pi_of(node) / pi_of(prefix)
            total += share * (math.log(share) - logp)
    return total


def test_the_target_itself_is_perfect_and_chance_has_the_closed_form(own):
    found = references(own.tests, SMALL.vocabulary)
    oracle, chance = found["oracle"], found["chance"]
    for key in ("ndcg", "recall@1", "recall@5", "greedy_recall@1", "valid_mass", "token_accuracy"):
        assert oracle[key] == pytest.approx(1, abs=1e-6), key
    for key in ("docid_kl", "mismatch", "invalid_rate", "kl_tf", "kl_ar", "tv", "off_corpus"):
        assert oracle[key] == pytest.approx(0, abs=1e-5), key
    entropy = -sum(p * math.log(p) for p in shares(SMALL.exact.relevant, SMALL.exact.beta))
    assert chance["docid_kl"] == pytest.approx(LENGTH * math.log(SMALL.vocabulary) - entropy, abs=1e-5)
    assert chance["valid_mass"] == pytest.approx(SMALL.documents / SMALL.vocabulary**LENGTH, rel=1e-5)


def shares(documents, beta):
    mass = [rank**-beta for rank in range(1, documents + 1)]
    return [m / sum(mass) for m in mass]


def test_the_modal_row_has_the_token_frequencies_of_training(own):
    (tests,) = own.tests
    world = own.task.worlds[1]
    tops = world.docids[[world.lists[q][0] for q in range(SMALL.exact.queries)]]
    batch = tests.batch
    output = _read(tests, _modal(tests, SMALL.vocabulary))
    for node in ((tests.plan.replication == 1) & (batch.node_token >= 0)).nonzero()[:50, 0].tolist():
        counts = np.bincount(tops[:, batch.node_depth[node] - 1], minlength=SMALL.vocabulary) + 1e-3
        share = counts[batch.node_token[node]] / counts.sum()
        assert output.logprobs[node].exp().item() == pytest.approx(share, rel=1e-4)


def test_names_of_tokens_do_not_matter(own):
    (tests,) = own.tests
    found = measures(tests, _read(tests, made_logits(tests)))
    other = bench()
    order = torch.randperm(SMALL.vocabulary, generator=torch.Generator().manual_seed(1))
    renamed = [replace(world, docids=order.numpy()[world.docids]) for world in other.task.worlds]
    other.task = replace(other.task, worlds=renamed)
    (again,) = other.tests
    logits = made_logits(tests)
    moved = torch.zeros_like(logits)
    seen = {}
    for node in range(len(tests.batch.node_token)):
        seen[key_of(tests, node, order)] = node
    for node in range(len(again.batch.node_token)):
        if again.batch.node_token[node] >= 0:
            twin = seen[key_of(again, node, None)]
            here = again.plan.replication[node], again.plan.place[node]
            moved[here][order] = logits[tests.plan.replication[twin], tests.plan.place[twin]]
    for key, values in measures(again, _read(again, moved)).items():
        assert values == pytest.approx(found[key], abs=1e-6), key


def key_of(tests, node, order):
    """Query and prefix of a node, its tokens renamed."""
    row, tokens = int(tests.batch.node_row[node]), []
    while tests.batch.node_token[node] >= 0:
        token = int(tests.batch.node_token[node])
        tokens.append(token if order is None else int(order[token]))
        node = int(tests.batch.node_parent[node])
    return row, tuple(tokens[::-1])


WITHOUT_EFFECT = {
    "scheduled sampling, gold alone": Trial(
        TOP, MitigationSettings(scheduled_sampling=ScheduledSamplingSettings(schedule="constant", minimum=1.0))
    ),
    "consistency, weight 0": Trial(TOP, MitigationSettings(consistency=ConsistencySettings(0.0, free_run="greedy"))),
    "MIXER, all taught": Trial(TOP, MitigationSettings(mixer=MixerSettings(warmup=999))),
    "BASH, nothing written": Trial(TOP, bash=0.0),
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_without_effect_a_method_is_teacher_forcing_bit_for_bit(own, name):
    batches = own.batches(TOP, negatives=False)
    forced = train(own.task, Trial(TOP), batches).state_dict()
    ours = train(own.task, WITHOUT_EFFECT[name], batches).state_dict()
    for key, values in forced.items():
        assert torch.equal(ours[key], values), key


def test_bash_writes_what_scheduled_sampling_would(own):
    """All tokens the model's own: the weights are the targets at the prefixes of one walk a query."""
    batch = own.batches(TOP, negatives=False)[0]
    torch.manual_seed(0)
    weights = own_weights(own.task.model(), batch, Trial(TOP, bash=1.0))
    assert torch.equal(weights > 0, weights == batch.node_target.where(weights > 0, torch.tensor(-1.0)))
    for row in range(len(batch.query_ids)):
        mine = batch.node_row == row
        assert weights[mine].sum().item() == pytest.approx(LENGTH, abs=1e-5)
        for depth in range(1, LENGTH + 1):
            parents = batch.node_parent[mine & (weights > 0) & (batch.node_depth == depth)].unique()
            assert len(parents) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_and_is_measured(name):
    """All of them change the model, to something that can be measured; the same again with the same seed."""
    settings = replace(SMALL, exact=replace(SMALL.exact, steps=3, queries=3, replications=2))
    benches = Benches(settings)
    variant = other_variants(settings)[0]
    first, again = (run_method(benches, variant, 2, name, 0) for _ in range(2))
    untrained = measured(benches.of(variant, 2).task.model(), benches.of(variant, 2).tests)
    assert first.keys() == untrained.keys()
    for key, values in first.items():
        assert np.isfinite(values).all(), key
        assert np.array_equal(values, again[key]), key
        assert values.shape == ((2, LENGTH) if key in CURVES else (2,))
    assert not np.array_equal(first["docid_kl"], untrained["docid_kl"])


def test_tuning_tries_three_settings_on_seeds_of_its_own():
    settings = replace(SMALL, exact=replace(SMALL.exact, steps=3, queries=3))
    benches = Benches(settings)
    assert tune(benches, "teacher forcing")["ndcg"].shape == (3,)
    study = benches.of(other_variants(settings)[0], 2)
    assert not np.array_equal(study.task.worlds[0].docids, benches.tuning.task.worlds[0].docids) or not np.array_equal(
        study.task.worlds[0].features, benches.tuning.task.worlds[0].features
    )
    for name, method in methods(LENGTH).items():
        assert len(method.trials(2.0)) == (1 if method.alone else 3), name


@pytest.mark.parametrize("length", [1, 2, 3, 6, 10])
def test_split_docids_are_distinct_and_share_prefixes_among_neighbours(length):
    vectors = generator(0, length).standard_normal((60, 3))
    docids = split_docids(vectors, length, 60)
    assert len({tuple(row) for row in docids.tolist()}) == 60
    first = [vectors[docids[:, 0] == token] for token in np.unique(docids[:, 0])]
    within = sum(((group - group.mean(axis=0)) ** 2).sum() for group in first)
    assert within < ((vectors - vectors.mean(axis=0)) ** 2).sum()


def test_lists_are_the_nearest_documents():
    world = similar_world(generator(0, 1), True, 30, 3, 9, queries=5, relevant=4, features=2, noise=0.0)
    for place in range(5):
        assert len(set(world.lists[place].tolist())) == 4
        assert set(world.off_list(place).tolist()) | set(world.lists[place].tolist()) == set(range(30))
        query = world.query(place, "7", world.off_list(place)[:3])
        assert query.ranks == [1, 2, 3, 4, 5, 5, 5]
        assert query.num_negatives == 3
    assert joined([{"a": np.ones(2)}, {"a": np.zeros(1)}])["a"].tolist() == [1, 1, 0]
