"""Negatives for training: which are drawn, that a draw can be repeated anywhere, and that no other method is misled."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.config.loading import load_recipe
from stoical.data.dataset import load_split
from stoical.data.negatives import NegativeSampler
from stoical.data.rows import Doc, RankingRow
from stoical.decoding.walks import listed
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.objectives.mitigations.consistency import Consistency, ConsistencySettings, free_run
from stoical.objectives.mitigations.expected_reward import ExpectedReward, ExpectedRewardSettings
from stoical.objectives.mitigations.gold_position import gold_inputs, off_trie_rate
from stoical.objectives.mitigations.minimum_risk import MinimumRisk, MinimumRiskSettings
from stoical.objectives.mitigations.mixed_walks import drawn_steps, parallel_walk, step_probabilities
from stoical.objectives.mitigations.mixer import Mixer, MixerSettings
from stoical.objectives.mitigations.professor_forcing import led_walk
from stoical.objectives.mitigations.reinforce import Reinforce, ReinforceSettings
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSampling, ScheduledSamplingSettings
from stoical.objectives.objective import StepContext
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import training_rows
from stoical.training.dry_run import show
from stoical.trie.node_weights import TargetSettings
from tests.support.contexts import Context
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries, random_query, without_negatives
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_recipe
from tests.support.word_encoder import encoder, prompt_docs, row

POOL = [f"p{place}" for place in range(30)]
names = st.lists(st.sampled_from([*POOL, "x", "y", "z"]), unique=True)


@settings(max_examples=200, deadline=None)
@given(
    docs=names.filter(bool), negatives=names, count=st.integers(1, 40), epoch=st.integers(0, 3), seed=st.integers(0, 9)
)
def test_what_is_drawn_is_never_listed(docs, negatives, count, epoch, seed):
    """Distinct, as many as there are to be had, and the row's own before others."""
    own = [name for name in negatives if name not in docs]
    asked = RankingRow("q1", "deer", tuple(map(Doc, docs)), tuple(map(Doc, own)))
    drawn = NegativeSampler(POOL, count, seed).draw(asked, epoch)
    assert not set(drawn) & set(docs)
    assert len(set(drawn)) == len(drawn) == min(count, len(set(own) | set(POOL) - set(docs)))
    assert set(drawn) <= set(own) if count <= len(own) else set(own) <= set(drawn)
    assert drawn == NegativeSampler(POOL, count, seed).draw(asked, epoch)


def test_epoch_seed_and_query_draw_anew_and_all_alike():
    """Of 30 docIDs, 5 of them listed: each of the other 25 is in 4 of 25 draws, 160 of 1,000 (4 sd are 46)."""
    asked = row(*POOL[:5])
    draws = [NegativeSampler(POOL, 4, seed).draw(asked, epoch) for seed in range(10) for epoch in range(100)]
    assert len({tuple(draw) for draw in draws}) > 990
    counts = Counter(name for draw in draws for name in draw)
    assert counts.keys() == set(POOL[5:])
    assert all(abs(count - 160) < 46 for count in counts.values())
    other = RankingRow("q8", asked.query, asked.docs)
    assert NegativeSampler(POOL, 4, 0).draw(other, 0) != NegativeSampler(POOL, 4, 0).draw(asked, 0)


def test_the_prompt_and_its_documents_are_those_without_negatives():
    """Long negatives do not push documents out, as they do in evaluation: they are left out themselves."""
    plain = encoder(max_length=10).encode(row("d1", "d2", "d3", "d4"))
    query = encoder(max_length=10).with_negatives(plain, ["d9", "d8 long", "d7", "d2", "d7"])
    assert query.docids == ["d1", "d2", "d3", "d9", "d7"], "d2 is listed"
    assert (query.num_negatives, query.num_listed, query.num_dropped) == (2, 3, 1)
    assert (query.ranks, query.counted) == ([1, 2, 3, 4, 4], [2] * 5)
    assert query.prompt_ids == plain.prompt_ids
    assert without_negatives(query) == plain
    assert prompt_docs(query) == {"d1", "d2", "d3"}


def test_negatives_are_tokenized_as_in_evaluation():
    evaluated = encoder(count=False).encode(row("d1", negatives=("d2 long",)), negatives=True)
    assert encoder(count=False).with_negatives(encoder(count=False).encode(row("d1")), ["d2 long"]) == evaluated


def test_a_split_knows_its_docids(tmp_path):
    rows = [
        {"query_id": "a", "query": "q", "docs": [{"docid": "y"}, {"docid": "x"}], "negatives": [{"docid": "n"}]},
        {"query_id": "b", "query": "q", "docs": [{"docid": "z"}, {"docid": "x"}]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert load_split(tmp_path, "train").docids() == ["x", "y", "z"]


def the_batches(recipe, workers, epoch):
    train = load_split(recipe.data.path, "train")
    dataset = training_rows(recipe, train, build_encoder(recipe, build_tokenizer(recipe, train)))
    dataset.set_epoch(epoch)
    collate = TrieTargetCollator(recipe.loss, pad_id=0, prune=False)
    return [entry["batch"] for entry in DataLoader(dataset, 8, collate_fn=collate, num_workers=workers)]


def test_workers_draw_what_the_main_process_draws(tmp_path):
    recipe = tiny_recipe(tmp_path, recipe="wordnet_beta2,small,margin")
    for epoch in (0, 1):
        for mine, theirs in zip(the_batches(recipe, 0, epoch), the_batches(recipe, 2, epoch), strict=True):
            assert torch.equal(mine.node_token, theirs.node_token)
            assert mine.doc_negative.sum() == 4 * 8
    first, second = (the_batches(recipe, 0, epoch)[0] for epoch in (0, 1))
    assert first.query_ids == second.query_ids
    assert first.node_token.tolist() != second.node_token.tolist()


def test_a_dry_run_shows_them(tmp_path):
    shown = show(tiny_recipe(tmp_path, "dry_run=true", recipe="wordnet_beta2,small,margin"))
    assert shown.count("<- negative") == 8


EXACT = {
    **{f"stoical {loss}": SToICaLLoss(loss) for loss in (TargetSettings(), TargetSettings("fractional", 1.0))},
    "reach": SToICaLLoss(TargetSettings(token="every_node", beta=2.0, visits="reach")),
    **{reward: ExpectedReward(ExpectedRewardSettings(reward=reward)) for reward in ("target", "gain", "prefix_credit")},
    "minimum risk": MinimumRisk(MinimumRiskSettings(beams=3)),
    "target": Consistency(ConsistencySettings(1.0, "target", "greedy")),
    "literal": Consistency(ConsistencySettings(1.0, "literal", "greedy", "tf")),
    "marginal": Consistency(ConsistencySettings(1.0, "marginal")),
    "mixer": Mixer(MixerSettings(warmup=9)),
    "expected": ScheduledSampling(ScheduledSamplingSettings("constant", None, 0.5, "expected", source="free")),
}


def longer_negative(count_terminator):
    """The negative "5 6" goes on where the docID "5" ends, with a terminator that may count or not."""
    lengths = [2, 3, 3] if count_terminator else [1, 2, 2]
    return TokenizedQuery("q9", [1, 4], ["a", "b", "n"], [[5, 2], [6, 7, 2], [5, 6, 2]], lengths, [1, 2, 3], 1)


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("name", EXACT)
def test_methods_without_chance_do_not_see_negatives(name, count_terminator):
    """Loss, logs and gradient are those of the trie without them: nothing is led, paid or expected there."""
    queries = [*ragged_queries(negatives=5, count_terminator=count_terminator), longer_negative(count_terminator)]
    loss = EXACT[name].settings if isinstance(EXACT[name], SToICaLLoss) else TargetSettings(token="trie", beta=2.0)
    seen = []
    for given_queries in (queries, [without_negatives(query) for query in queries]):
        model, batch = tiny_model(), pack(given_queries, loss)
        output = EXACT[name](
            StepContext(batch, node_logprobs(model, batch, keep="logits"), 0, node_logprobs, node_logprobs)
        )
        output.loss_sum.backward()
        seen.append((output, torch.cat([p.grad.flatten() for p in model.parameters()])))
    (with_, gradient), (alone, expected) = seen
    assert with_.loss_sum.item() == pytest.approx(alone.loss_sum.item(), rel=1e-5)
    assert with_.logs == pytest.approx(alone.logs, rel=1e-5)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()
    assert expected.norm() > 1e-4


def tempting(seed):
    """A batch whose model would rather write negatives than anything else."""
    batch = pack([random_query(seed, docs=5, negatives=6), random_query(seed + 50, docs=1, negatives=3)])
    logprobs = made_up_logprobs(batch, seed)
    return batch, torch.where(listed(batch), logprobs - 5, logprobs)


@pytest.mark.parametrize("seed", range(8))
def test_walks_never_reach_a_negative(seed):
    torch.manual_seed(seed)
    batch, logprobs = tempting(seed)
    away = ~listed(batch)
    for kind in ("greedy", "sampled"):
        assert not (free_run(batch, logprobs, kind) & away).any()
    assert not (
        (free_run(batch, logprobs, "sampled") | led_walk(batch, "target") | led_walk(batch, "gold")) & away
    ).any()
    for source in ("constrained", "free"):
        for _ in range(10):
            steps = step_probabilities(batch, logprobs, 0.3, source)
            assert (steps[away] == 0).all()
            assert not (parallel_walk(batch, drawn_steps(batch, steps, source), passes=3) & away).any()
    for method in (
        Reinforce(ReinforceSettings(samples=8)),
        Mixer(MixerSettings(samples=8, stage=1)),
        ScheduledSampling(ScheduledSamplingSettings("constant", None, 0.2, "sequential")),
    ):
        own = logprobs.clone().requires_grad_()
        method(Context(batch, own, step=50)).loss_sum.backward()
        assert own.grad.isfinite().all()
        assert (own.grad[away] == 0).all()


def test_a_prefix_of_a_negative_is_off_the_trie():
    """The literal scheduled sampling may spell one; its log must not call that a docID of the query."""
    queries = [random_query(1, docs=2, negatives=8)]
    whole, alone = pack(queries), pack([without_negatives(query) for query in queries])
    chain = gold_inputs(whole)
    assert len(chain) >= 2
    spelled_negatives = 0
    for ids in queries[0].docid_ids[2:]:
        tokens = torch.tensor([*ids, *[2] * len(chain)][: len(chain)])
        assert off_trie_rate(whole, tokens) == off_trie_rate(alone, tokens)
        spelled_negatives += off_trie_rate(alone, tokens) == 1 and len(ids) >= len(chain)
    assert spelled_negatives, "some negative's prefix is as long as the gold one"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=wordnet_ntp,small", "data.num_negatives=2"], "data.num_negatives=2 has no effect"),
        (["recipe=wordnet_ntp,small,unlikelihood", "data.num_negatives=2"], "data.num_negatives=2 has no effect"),
        (["recipe=wordnet_ntp,small", "data.num_negatives=-1"], "data.num_negatives=-1 must be at least 0"),
        (
            ["recipe=wordnet_ntp,small,margin", "data.generated=rows"],
            "data.num_negatives conflicts with data",
        ),
        (["recipe=wordnet_ntp,small,margin,rac"], "data.num_negatives conflicts with self_training"),
        (["recipe=wordnet_ntp,small,margin", "data.num_negatives=0"], "mitigations.margin compares with negatives"),
        (
            ["recipe=wordnet_ntp,small,unlikelihood", "mitigations.unlikelihood.tokens=siblings"],
            "mitigations.unlikelihood.tokens=siblings compares with negatives",
        ),
    ],
)
def test_negatives_and_what_reads_them_go_together(words, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(*words)
