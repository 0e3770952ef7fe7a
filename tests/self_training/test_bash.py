"""BASH's rows: mixed tokens against a loop of plain forwards, and the loss on them against plain forwards too."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from stoical.config.self_training import BashSettings
from stoical.decoding.draws import drawn_tokens, row_draws
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.objectives.objective import weighted_nll
from stoical.self_training.bash import mix
from stoical.trie.expert import ExpertTrie
from stoical.trie.mixed_prefix import MixedPrefix
from stoical.trie.node_weights import TargetSettings
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.same_batch import assert_same_batch
from tests.support.tiny_model import EOS, VOCAB, tiny_model

ONE_HOT, TRIE = TargetSettings(), TargetSettings(token="trie", beta=1.5)
KINDS = {
    f"{sampler}, {source}, {target}": {"sampler": sampler, "source": source, "target": target}
    for sampler in ("parallel", "sequential")
    for source, target in (("constrained", "recompute"), ("free", "recompute"), ("free", "gold_position"))
}


def draws_of(queries, settings, seed=0):
    longest = [max(map(len, query.docid_ids)) for query in queries]
    return [row_draws([seed, i], length, settings.beta, settings.per) for i, length in enumerate(longest)]


def mixed_tokens(model, queries, settings, draws, layout="sequence"):
    return mix(
        model,
        pack(queries, TRIE),
        [ExpertTrie.of(query.docid_ids, query.ranks) for query in queries],
        draws,
        settings,
        layout,
    )


def top(query):
    return query.docid_ids[int(np.argmin(query.ranks))]


def best_below(query, prefix):
    """Ids of the best-ranked docID that begins with a prefix."""
    below = [i for i, ids in enumerate(query.docid_ids) if ids[: len(prefix)] == prefix and len(ids) > len(prefix)]
    return query.docid_ids[min(below, key=lambda i: query.ranks[i])] if below else None


def written_one_by_one(model, query, settings, draws):
    """The tokens by the definition: one plain forward a token, everything else in lists."""
    gold, written = top(query), []
    for step in range(len(gold) - (settings.target == "gold_position") if settings.sampler == "parallel" else 99):
        before = gold[:step] if settings.sampler == "parallel" else written
        if settings.sampler == "sequential":
            ended = (
                len(written) == len(gold) - 1 if settings.target == "gold_position" else not best_below(query, before)
            )
            if ended:
                break
        with torch.no_grad():
            logits = model(torch.tensor([[*query.prompt_ids, *before]])).logits[0, -1].double().numpy()
        allowed = range(VOCAB)
        if settings.source == "constrained":
            allowed = sorted({ids[step] for ids in query.docid_ids if ids[:step] == before and len(ids) > step})
        if settings.temperature == 0:
            own = max(allowed, key=lambda token: logits[token])
        else:
            odds = np.exp((logits[allowed] - logits.max()) / settings.temperature)
            own = allowed[int((np.cumsum(odds) / odds.sum() > draws.uniform[step]).argmax())]
        along = settings.sampler == "parallel" or settings.target == "gold_position"
        expert = gold[step] if along else best_below(query, before)[step]
        written.append(int(own) if draws.own[step] else expert)
    return written


@pytest.mark.parametrize(("per", "temperature"), [("token", 0.0), ("token", 0.7), ("sequence", 3.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_tokens_are_those_of_a_loop_of_plain_forwards(kind, per, temperature):
    model = tiny_model().eval()
    settings = BashSettings(beta=0.6, temperature=temperature, per=per, **KINDS[kind])
    changed = 0
    for seed in range(4):
        queries = [*ragged_queries(), random_query(10 + seed, docs=9, prompt=5)]
        draws = draws_of(queries, settings, seed)
        mixed = mixed_tokens(model, queries, settings, draws, layout=("sequence", "cache")[seed % 2])
        for query, luck, one in zip(queries, draws, mixed, strict=True):
            assert one.tokens == written_one_by_one(model, query, settings, luck)
            assert one.own == luck.own[: len(one.tokens)].tolist()
            assert not any(changed and not own for own, changed in zip(one.own, one.changed, strict=True))
            changed += sum(one.changed)
    assert changed > 3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_in_any_batch(kind):
    """So the number of processes and the batch size do not matter."""
    model = tiny_model().eval()
    settings = BashSettings(beta=0.5, **KINDS[kind])
    queries = [random_query(seed, docs=2 + seed % 7, prompt=3 + seed % 5) for seed in range(12)]
    draws = draws_of(queries, settings)
    together = mixed_tokens(model, queries, settings, draws)
    for start in range(3):
        share = range(start, 12, 3)
        alone = mixed_tokens(model, [queries[i] for i in share], settings, [draws[i] for i in share])
        assert alone == [together[i] for i in share]


@pytest.mark.parametrize("kind", KINDS)
def test_at_beta_0_the_tokens_are_gold(kind):
    queries = ragged_queries()
    settings = BashSettings(beta=0.0, **KINDS[kind])
    for query, one in zip(
        queries, mixed_tokens(tiny_model().eval(), queries, settings, draws_of(queries, settings)), strict=True
    ):
        assert one.tokens == top(query)[: len(one.tokens)]
        assert len(one.tokens) == len(top(query)) - (settings.target == "gold_position")
        assert not any(one.own) and not any(one.changed) and not one.off_trie


@pytest.mark.parametrize(("sampler", "source"), [("sequential", "free"), ("parallel", "constrained")])
def test_off_trie_is_said_where_no_target_is_known(sampler, source):
    """That is not where a docID has ended, though some tokens may be left over."""
    early = TokenizedQuery("q", [1, 9], ["ab", "a"], [[3, 4, EOS], [3, EOS]], [3, 2], [1, 2])
    queries, model = [*ragged_queries(), early] * 20, tiny_model().eval()
    settings = BashSettings(beta=0.7, source=source, sampler=sampler)
    seen = set()
    for query, one in zip(queries, mixed_tokens(model, queries, settings, draws_of(queries, settings)), strict=True):
        off = not any(ids[: len(one.tokens)] == one.tokens[: len(ids)] for ids in query.docid_ids)
        assert one.off_trie == off
        seen.add(off)
    assert seen == {True, False}
    constrained = replace(settings, source="constrained", sampler="sequential")
    assert not any(one.off_trie for one in mixed_tokens(model, queries, constrained, draws_of(queries, settings)))


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_the_share_of_own_tokens_is_binomial(per):
    """Within 4 standard errors; a docID's choices are one where it is made per sequence."""
    beta, rows, length = 0.2, 3000, 4
    own = np.stack([row_draws([7, 1, place], length, beta, per).own for place in range(rows)])
    independent = rows * (length if per == "token" else 1)
    assert abs(own.mean() - beta) < 4 * (beta * (1 - beta) / independent) ** 0.5
    assert (own.std(axis=1) == 0).all() == (per == "sequence")
    other = np.stack([row_draws([7, 2, place], length, beta, per).own for place in range(rows)])
    assert (own != other).any(), "another iteration draws anew"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_by_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = drawn_tokens(logits.expand(4000, -1), uniform, temperature)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, (logits / temperature).softmax(dim=0), atol=1e-3)
    assert drawn_tokens(logits[None], torch.tensor([1.0 - 2**-53], dtype=torch.float64), temperature) == 3
    assert drawn_tokens(logits[[2, 1]][None], torch.zeros(1, dtype=torch.float64), temperature) == 1


def shares(query, prefix, settings):
    """{token: target} after a prefix in the trie, by section 4.3."""
    rest = [
        (ids[len(prefix)], r)
        for ids, r in zip(query.docid_ids, query.ranks, strict=True)
        if ids[: len(prefix)] == prefix
    ]
    if settings.token == "one_hot":
        return {min(rest, key=lambda pair: pair[1])[0]: 1.0}
    total = sum(r**-settings.beta for _, r in rest)
    found = dict.fromkeys((token for token, _ in rest), 0.0)
    for token, r in rest:
        found[token] += r**-settings.beta / total
    return found


def plain_loss(model, query, prefix, settings):
    """By definition, in float64: one causal forward over prompt and mixed tokens, targets position by position."""
    gold, tokens, total = top(query), list(prefix.tokens), 0.0
    logits = model(torch.tensor([[*query.prompt_ids, *tokens]])).logits[0, len(query.prompt_ids) - 1 :]
    logprobs = logits.double().log_softmax(dim=-1)
    for step in range(len(gold) if prefix.target == "gold_position" else len(tokens) + 1):
        before = gold[:step] if prefix.target == "gold_position" else tokens[:step]
        if best_below(query, before) is None:
            break
        for token, share in shares(query, before, settings).items():
            last = [ids for ids in query.docid_ids if ids == [*before, token]]
            if not last or query.counted[query.docid_ids.index(last[0])] == len(last[0]):
                total = total - share * logprobs[step, token]
    return total


def mixed_queries(target, count_terminator=True):
    """Prefixes of all kinds: gold, another docID's, one that leaves the trie, one that ends early."""
    rng, found = np.random.default_rng(0), []
    for query in [
        *ragged_queries(count_terminator=count_terminator),
        random_query(5, docs=8, count_terminator=count_terminator),
    ]:
        length = len(top(query)) - 1
        for other in (top(query), query.docid_ids[-1], rng.integers(3, 8, size=9).tolist()):
            tokens = [*other, *rng.integers(3, 8, size=9).tolist()][:length] if target == "gold_position" else other
            found.append(replace(query, mixed=MixedPrefix(tuple(tokens), target)))
    return found


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
@pytest.mark.parametrize("settings", [ONE_HOT, TRIE], ids=["one_hot", "trie"])
@pytest.mark.parametrize("target", ["recompute", "gold_position"])
def test_the_loss_of_mixed_rows_is_that_of_plain_forwards(target, settings, layout, count_terminator):
    """Value and gradient, beside ordinary rows in the same batch."""
    model, queries = tiny_model(), mixed_queries(target, count_terminator)
    batch = pack(queries, settings, prune=True)
    loss = weighted_nll(node_logprobs(model, batch, layout).logprobs, batch.node_weights)
    expected = sum(plain_loss(model, query, query.mixed, settings) for query in queries)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = []
    for value in (loss, expected):
        model.zero_grad()
        value.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_inputs_without_a_counted_target_of_their_own_are_fed_too():
    """Off the gold path, past two docIDs that end on the way with terminators that do not count."""
    ids = [[9, EOS], [5, EOS], [5, 6, EOS], [5, 6, 7, 8, EOS]]
    mixed = MixedPrefix(tuple(ids[-1]), "recompute")
    query = TokenizedQuery("q", [1, 3, 4], list("abcd"), ids, [len(one) - 1 for one in ids], [1, 2, 3, 4], mixed=mixed)
    model, batch = tiny_model(), pack([query], ONE_HOT, prune=True)
    loss = weighted_nll(node_logprobs(model, batch).logprobs, batch.node_weights)
    assert loss.item() == pytest.approx(plain_loss(model, query, mixed, ONE_HOT).item(), rel=1e-5)


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("settings", [ONE_HOT, TRIE], ids=["one_hot", "trie"])
@pytest.mark.parametrize("target", ["recompute", "gold_position"])
def test_gold_tokens_make_the_ordinary_batch_bit_for_bit(target, settings, count_terminator):
    queries = ragged_queries(count_terminator=count_terminator)
    gold = [
        replace(q, mixed=MixedPrefix(tuple(top(q)[: len(top(q)) - (target == "gold_position")]), target))
        for q in queries
    ]
    ours, ordinary = pack(gold, settings, prune=True), pack(queries, settings, prune=True)
    assert_same_batch(ours, ordinary)


def listed_first(query, place):
    """The query with the docID at `place`, one of rank 1, drawn as the gold one."""
    order = [place, *(other for other in range(len(query.ranks)) if other != place)]
    docids, ids = ([values[i] for i in order] for values in (query.docids, query.docid_ids))
    return replace(query, docids=docids, docid_ids=ids, counted=[query.counted[i] for i in order])


@pytest.mark.parametrize("target", ["recompute", "gold_position"])
def test_a_row_of_one_of_several_gold_docids_stands_for_them_all(target):
    """Two best docIDs, 3 4 and 5 6. The root's targets are half and half, the row counts twice, the other's path not.

    The mean over the draw is next-token prediction's: weight 1 on each token of both.
    """
    docids = [[3, 4, EOS], [5, 6, EOS], [5, 7, EOS]]
    query, sums = TokenizedQuery("q", [1, 9], ["ab", "cd", "ce"], docids, [3, 3, 3], [1, 1, 3]), {}
    for place in range(2):
        drawn = listed_first(query, place)
        prefix = MixedPrefix(tuple(drawn.docid_ids[0][:2]), target)
        batch = pack([replace(drawn, mixed=prefix)], ONE_HOT, prune=True)
        found = zip(batch.node_depth.tolist(), batch.node_token.tolist(), batch.node_weights.tolist(), strict=True)
        weights = {(depth, token): weight for depth, token, weight in found if weight}
        assert weights == {(1, 3): 1.0, (1, 5): 1.0, (2, (4, 6)[place]): 2.0, (3, EOS): 2.0}
        for node, weight in weights.items():
            sums[node] = sums.get(node, 0.0) + weight / 2
    assert sums == {(1, 3): 1.0, (1, 5): 1.0, (2, 4): 1.0, (2, 6): 1.0, (3, EOS): 2.0}


def weights_by_path(query, settings):
    """(the tokens that lead to a node, its weight) for all that have weight."""
    batch, paths = pack([query], settings, prune=True), [()]
    nodes = zip(batch.node_parent.tolist(), batch.node_token.tolist(), batch.node_weights.tolist(), strict=True)
    for parent, token, weight in list(nodes)[1:]:
        paths.append((*paths[parent], token))
        if weight:
            yield paths[-1], weight


@pytest.mark.parametrize("settings", [ONE_HOT, TRIE], ids=["one_hot", "trie"])
@pytest.mark.parametrize("target", ["recompute", "gold_position"])
def test_without_own_tokens_the_mean_over_the_drawn_gold_docids_is_the_recipes_loss(target, settings):
    """The weight of every node, in random tries whose first two to four docIDs share rank 1."""
    for seed in range(6):
        query = random_query(seed, docs=9, prompt=4)
        shared = 2 + seed % 3
        order = np.argsort(query.ranks)
        ids = [query.docid_ids[i] for i in order]
        query = replace(query, docid_ids=ids, counted=[len(one) for one in ids], ranks=[1] * shared + [*range(5, 14)])
        query = replace(query, ranks=query.ranks[:9])
        total = Counter()
        for place in range(shared):
            drawn = listed_first(query, place)
            tokens = drawn.docid_ids[0][: len(drawn.docid_ids[0]) - (target == "gold_position")]
            for node, weight in weights_by_path(replace(drawn, mixed=MixedPrefix(tuple(tokens), target)), settings):
                total[node] += weight / shared
        assert total == pytest.approx(dict(weights_by_path(query, settings)), rel=1e-6)


def test_the_mixed_tokens_follow_the_gold_docid_that_is_listed_first():
    docids = [[5, 6, EOS], [3, 4, EOS], [5, 7, EOS]]
    query = TokenizedQuery("q", [1, 9], ["cd", "ab", "ce"], docids, [3, 3, 3], [1, 1, 3])
    settings = BashSettings(beta=0.0)
    for place in range(2):
        drawn = listed_first(query, place)
        (one,) = mixed_tokens(tiny_model().eval(), [drawn], settings, draws_of([drawn], settings))
        assert one.tokens == docids[place]


def test_the_literal_loss_is_the_papers():
    """-sum_t log p(y_t | x, g_<t)."""
    model, query = tiny_model(), random_query(3, docs=1, prompt=6)
    gold = top(query)
    prefix = MixedPrefix(tuple((token + 1) % VOCAB for token in gold[:-1]), "gold_position")
    batch = pack([replace(query, mixed=prefix)], ONE_HOT, prune=True)
    logits = model(torch.tensor([[*query.prompt_ids, *prefix.tokens]])).logits[0, len(query.prompt_ids) - 1 :]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(gold), reduction="sum")
    loss = weighted_nll(node_logprobs(model, batch).logprobs, batch.node_weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


REFUSED = {
    "beta": (BashSettings(beta=1.2), ONE_HOT, [], "beta=1.2 must lie between 0 and 1"),
    "temperature": (BashSettings(temperature=-1.0), ONE_HOT, [], "temperature=-1.0 must be a finite number"),
    "constrained to the letter": (
        BashSettings(target="gold_position"),
        ONE_HOT,
        [],
        "set self_training.bash.source=free",
    ),
    "other paths": (BashSettings(), TargetSettings(item="fractional", alpha=1.0), [], "goes with loss.item=indicator"),
    "mitigation": (BashSettings(), ONE_HOT, ["reinforce"], "conflicts with mitigations.reinforce"),
}


@pytest.mark.parametrize(("settings", "loss", "mitigations", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_by_name(settings, loss, mitigations, message):
    with pytest.raises(ValueError, match=message):
        settings.check(loss, mitigations)
