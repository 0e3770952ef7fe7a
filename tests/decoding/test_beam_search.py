"""Greedy and beam search against brute force over all docIDs, and against a plain beam search over prefixes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import stoical.decoding.beam_search as searching
from stoical.decoding.beam_search import beam_search, greedy
from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.scores import doc_scores
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.forward import node_logprobs
from stoical.trie.node_weights import TargetSettings
from stoical.trie.prefix_tree import build_trie
from tests.support.decoding_reference import Case, brute_force, plain_beam_search, plain_greedy
from tests.support.random_queries import random_query
from tests.support.tiny_model import EOS, VOCAB, tiny_model

MODEL = tiny_model().eval()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Tries of a few tokens, so that docIDs share prefixes and, without a terminator, are prefixes of each other."""
    bare = draw(st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=4), min_size=1, max_size=14, unique_by=tuple))
    ending = draw(st.sampled_from(["counted", "uncounted", "none"]))
    docids = [tuple(ids) if ending == "none" else (*ids, EOS) for ids in bare]
    prompt = draw(st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=9))
    counted = [len(ids) - (ending == "uncounted") for ids in docids]
    return Case(prompt, docids, counted, draw(st.sampled_from(["mean", "sum"])))


PREFIXES = Case([1, 8], [(3,), (3, 4), (3, 4, 5), (6,)], [1, 2, 3, 1], "mean")
SINGLE_TOKENS = Case([1, 8], [(5,), (9,), (4,)], [1, 1, 1], "sum")
ONE_DOC = Case([1], [(3, 4, EOS)], [2], "mean")


def device_trie(case: Case) -> DeviceTrie:
    return DeviceTrie.from_trie(build_trie(case.docids), case.counted)


@pytest.fixture(autouse=True, params=["whole trie", "level by level"], scope="module")
def passes(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tries this small run in one pass; and as those that are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "FEW", searching.FEW if request.param == "whole trie" else 0)
        yield request.param


def search(case: Case, num_beams: int, model=MODEL) -> list[tuple[int, float]]:
    found = beam_search(model, case.prompt, device_trie(case), num_beams, case.reduction)
    return [(hypothesis.doc, hypothesis.score) for hypothesis in found]


def assert_same_ranking(found, expected, all_scores):
    """Scores agree place by place, and every docID has its own score: so near-ties may swap, and nothing else."""
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert [score for _, score in found] == pytest.approx([all_scores[doc] for doc, _ in found], abs=1e-5)
    assert len({doc for doc, _ in found}) == len(found)


def check_wide_beams(case: Case, more: int) -> None:
    exact = brute_force(MODEL, case)
    num_beams = case.frontier + more
    assert_same_ranking(search(case, num_beams), exact[:num_beams], dict(exact))


def check_narrow_beams(case: Case, num_beams: int) -> None:
    expected, gap = plain_beam_search(MODEL, case, num_beams)
    assume(gap > 1e-5)
    assert_same_ranking(search(case, num_beams), expected, dict(brute_force(MODEL, case)))


def check_greedy(case: Case) -> None:
    (doc, score), gap = plain_greedy(MODEL, case)
    assume(gap > 1e-5)
    found = greedy(MODEL, case.prompt, device_trie(case), case.reduction)
    assert found.score == pytest.approx(score, abs=1e-5)
    assert brute_force(MODEL, case)[0][1] >= found.score - 1e-5
    assert dict(brute_force(MODEL, case))[found.doc] == pytest.approx(dict(brute_force(MODEL, case))[doc], abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 20))
@example(PREFIXES, 0)
@example(PREFIXES, 20)
@example(SINGLE_TOKENS, 0)
@example(SINGLE_TOKENS, 20)
@example(ONE_DOC, 0)
@example(ONE_DOC, 20)
def test_wide_beams_are_brute_force(case, more):
    check_wide_beams(case, more)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 5))
@example(PREFIXES, 1)
@example(SINGLE_TOKENS, 2)
@example(ONE_DOC, 1)
def test_narrow_beams_are_the_plain_search(case, num_beams):
    check_narrow_beams(case, num_beams)


@settings(max_examples=60, deadline=None)
@given(cases())
@example(PREFIXES)
@example(SINGLE_TOKENS)
@example(ONE_DOC)
def test_greedy_is_the_plain_walk(case):
    check_greedy(case)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(cases(), st.integers(0, 20))
def test_wide_beams_are_brute_force_on_1000_tries(case, more):
    check_wide_beams(case, more)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(cases(), st.integers(1, 5))
def test_narrow_beams_and_greedy_on_1000_tries(case, num_beams):
    check_narrow_beams(case, num_beams)
    check_greedy(case)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ending", ["counted", "uncounted", "none"])
def test_scores_are_those_of_exact_scoring(reduction, ending):
    query = random_query(4, docs=12, terminated=ending != "none", count_terminator=ending != "uncounted")
    batch = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False)([query])["batch"]
    exact = doc_scores(batch, node_logprobs(MODEL, batch).logprobs, reduction)
    trie = DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted)
    found = beam_search(MODEL, query.prompt_ids, trie, 40, reduction)
    assert sorted(hypothesis.doc for hypothesis in found) == list(range(12))
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(exact[hypothesis.doc].item(), abs=1e-5)


def test_ties_go_to_small_tokens_and_to_the_docid_listed_first():
    """A model that knows nothing: every docID of one length has the same score."""
    model = tiny_model().eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    docids = [(6, 9, EOS), (6, 3, EOS), (4, 5, EOS), (3, EOS), (5, 8, EOS), (5, 7, EOS)]
    case = Case([1, 8], docids, [len(ids) for ids in docids], "mean")
    assert [doc for doc, _ in search(case, 6, model)] == [0, 1, 2, 3, 4, 5]
    assert [doc for doc, _ in search(case, 2, model)] == [2, 3]  # the beams 3 and 4 live; 5 and 6 are cut
    assert greedy(model, case.prompt, device_trie(case)).doc == 3
    assert search(Case([1, 8], docids, case.counted, "sum"), 6, model)[0][0] == 3


def record_calls(model) -> list[tuple[torch.Size, object]]:
    """What the model is called with from here on: the shape of its input ids, and the cache."""
    calls = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((kwargs["input_ids"].shape, kwargs["past_key_values"])),
        with_kwargs=True,
    )
    return calls


def test_the_prompt_is_run_and_kept_once(passes):
    model, docids = tiny_model().eval(), [*PREFIXES.docids, (6, 7, 8), (7, 8, 9)]
    case = Case([1, *range(10, 50)], docids, [len(ids) for ids in docids], "mean")
    calls = record_calls(model)
    search(case, 3, model)
    shapes = [tuple(shape) for shape, _ in calls]
    levels = [(1, 3), (1, 3)]  # nodes 3, 6, 7; nodes 34, 67, 78
    assert shapes == [(1, 41), *([(1, 6)] if passes == "whole trie" else levels)]
    caches = {id(cache) for _, cache in calls}
    assert len(caches) == 1
    for layer in calls[0][1].layers:
        assert layer.keys.shape[:1] == layer.values.shape[:1] == (1,)
        assert layer.keys.shape[2] == layer.values.shape[2] == 41 + 3 + 3


def test_leaves_are_never_run():
    model = tiny_model().eval()
    calls = record_calls(model)
    search(SINGLE_TOKENS, 3, model)
    assert len(calls) == 1
    search(ONE_DOC, 1, model)
    assert sum(shape[1] for shape, _ in calls[1:]) == 1 + 2


def gpt2():
    """Learned absolute positions: a node's position is its depth, not its column."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    return GPT2LMHeadModel._from_config(config, attn_implementation="trie_sdpa")


def lora():
    config = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(tiny_model(), config)


MODELS = {
    "eager": lambda: tiny_model("eager"),
    "sdpa": lambda: tiny_model("sdpa"),
    "gpt2": gpt2,
    "lora": lora,
    "sliding window": lambda: tiny_model(sliding_window=13),  # longer than any docID's row, shorter than the columns
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_brute_force(name):
    model = MODELS[name]().eval()
    for seed in range(5):
        query = random_query(seed, docs=12, prompt=8)
        case = Case(list(query.prompt_ids), [tuple(ids) for ids in query.docid_ids], list(query.counted), "mean")
        exact = brute_force(model, case)
        assert_same_ranking(search(case, 20, model), exact, dict(exact))


def test_a_soft_prompt_is_put_before_the_prompt_and_nowhere_else():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model, query = get_peft_model(tiny_model(), config).eval(), random_query(3, docs=10)
    trie = DeviceTrie.from_trie(build_trie(query.docid_ids))
    for hypothesis in beam_search(model, query.prompt_ids, trie, 20):
        ids = query.docid_ids[hypothesis.doc]
        logits = model(input_ids=torch.tensor([[*query.prompt_ids, *ids]])).logits[0, -len(ids) - 1 : -1]
        expected = logits.double().log_softmax(-1)[range(len(ids)), ids].mean().item()
        assert hypothesis.score == pytest.approx(expected, abs=1e-5)


def test_bfloat16_weights_give_float32_scores():
    """The logits are bfloat16, their softmax is not: 1e-5 of float64's, where bfloat16 has steps of 0.03."""
    low, seen = tiny_model().bfloat16().eval(), []
    low.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = search(SINGLE_TOKENS, 3, low)
    assert seen[0].dtype == torch.bfloat16
    expected = seen[0][0, -1].double().log_softmax(-1)[[ids[0] for ids in SINGLE_TOKENS.docids]]
    assert dict(found) == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-5)
    high = dict(search(SINGLE_TOKENS, 3))
    assert dict(found) == pytest.approx(high, abs=0.3)


def test_training_mode_is_left_as_it_was():
    """Dropout is off and the cache lives, also where the model is in the middle of a checkpointed training run."""
    model = tiny_model(attention_dropout=0.5).train()
    model.gradient_checkpointing_enable()
    case = Case([1, 8, 9], PREFIXES.docids, PREFIXES.counted, "mean")
    assert search(case, 5, model) == search(case, 5)
    assert model.training
    with pytest.raises(ValueError, match="empty"):
        beam_search(model, [], device_trie(case), 2)
    assert model.training


def test_a_stored_generation_config_changes_nothing():
    model = tiny_model().eval()
    settings_of_another = {"do_sample": True, "top_k": 2, "temperature": 3.0, "num_beams": 7, "max_new_tokens": 1}
    model.generation_config.update(**settings_of_another, repetition_penalty=5.0, no_repeat_ngram_size=1)
    assert search(PREFIXES, 3, model) == search(PREFIXES, 3)
    trie = device_trie(PREFIXES)
    assert greedy(model, PREFIXES.prompt, trie) == greedy(MODEL, PREFIXES.prompt, trie)


def test_one_trie_serves_many_queries():
    query = random_query(9, docs=30)
    trie = DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted)
    rng = np.random.default_rng(0)
    for _ in range(5):
        prompt = rng.integers(3, VOCAB, size=rng.integers(1, 20)).tolist()
        case = Case(prompt, [tuple(ids) for ids in query.docid_ids], list(query.counted), "mean")
        exact = brute_force(MODEL, case)
        found = [(hypothesis.doc, hypothesis.score) for hypothesis in beam_search(MODEL, prompt, trie, 40)]
        assert_same_ranking(found, exact, dict(exact))


def test_mistakes_are_named():
    trie = device_trie(PREFIXES)
    with pytest.raises(ValueError, match="num_beams=0 must be at least 1"):
        beam_search(MODEL, [1], trie, 0)
    with pytest.raises(ValueError, match="prompt is empty"):
        greedy(MODEL, [], trie)
    with pytest.raises(ValueError, match=r"trie is on meta and the model on cpu.*from_trie"):
        greedy(MODEL, [1], DeviceTrie.from_trie(build_trie(PREFIXES.docids), device="meta"))
    with pytest.raises(ValueError, match="sliding window of 5"):
        greedy(tiny_model(sliding_window=5), [1, 8, 9], trie)
    broken = tiny_model()
    torch.nn.init.constant_(broken.lm_head.weight, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        greedy(broken, [1], trie)
    for counted in ([1, 1, 1], [0, 1, 2, 1], [2, 2, 3, 1], [1, 2, 1, 1]):
        with pytest.raises(ValueError, match="counted"):
            DeviceTrie.from_trie(build_trie(PREFIXES.docids), counted)
