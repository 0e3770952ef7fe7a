"""What is written behind prompts: generate against a loop of whole forwards, each decoder's rule, padding's trap."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from transformers import GenerationConfig

from stoical.decoding.sampling import likeliest
from stoical.soft_prompts.begin import first_prompts, spread
from stoical.soft_prompts.decoders import BEAMS, decode, generate, numeric_difference, written
from stoical.soft_prompts.settings import ModelOptions, SoftPromptSettings
from stoical.soft_prompts.targets import pad
from tests.support.tiny_frozen import encoded, tiny_frozen

TEXTS = encoded("cats and dogs and cats", "the dog", "a small cat sat", "dogs and dogs and dogs", "the cat")


@pytest.fixture(scope="module")
def frozen():
    return tiny_frozen()


@pytest.fixture(scope="module")
def prompts(frozen):
    given = SoftPromptSettings(ModelOptions("-"), target="-", vectors=3, init="random")
    return first_prompts(frozen, given, [str(place) for place in range(len(TEXTS))])


def ended(frozen, row):
    return row[: row.index(frozen.eos) + 1] if frozen.eos in row else row


@torch.no_grad()
def logits_after(frozen, prompt, tokens):
    """A whole forward, nothing cached, of embeddings put together here."""
    ids = torch.tensor([[frozen.start, *tokens]])
    inputs = torch.cat([prompt[None], frozen.model.get_input_embeddings()(ids)], dim=1)
    return frozen.model(inputs_embeds=inputs, use_cache=False).logits[0, -1]


def test_greedy_by_whole_forwards(frozen, prompts):
    found = decode(frozen, "greedy", prompts, TEXTS)
    own = frozen.write(prompts, 8, likeliest).tolist()
    for place, row in enumerate(found):
        assert row == ended(frozen, own[place])[: len(row)]
        for t, token in enumerate(row):
            assert token == int(logits_after(frozen, prompts[place], row[:t]).argmax())


def test_the_forward_gives_the_logits_of_whole_forwards(frozen, prompts):
    targets = pad(TEXTS)
    logits, hidden = frozen.teacher_forced(prompts, targets.tokens, hidden=True)
    for place, text in enumerate(TEXTS):
        for t in range(len(text)):
            torch.testing.assert_close(logits[place, t], logits_after(frozen, prompts[place], text[:t]))
    assert hidden is not None
    torch.testing.assert_close(frozen.model.lm_head(hidden), logits)


def test_the_models_own_generation_config_decides_nothing(frozen, prompts):
    plain = written(frozen, prompts, 6)
    own = frozen.model.generation_config
    frozen.model.generation_config = GenerationConfig(do_sample=True, repetition_penalty=5.0, temperature=9.0)
    try:
        assert written(frozen, prompts, 6) == plain
    finally:
        frozen.model.generation_config = own


def test_beams_find_what_is_likelier_as_a_whole(frozen, prompts):
    def logprob(prompt, row):
        return sum(float(logits_after(frozen, prompt, row[:t]).log_softmax(-1)[token]) for t, token in enumerate(row))

    greedy, beam = (decode(frozen, name, prompts, TEXTS) for name in ("greedy", "beam"))
    pairs = [(logprob(p, g), logprob(p, b), len(g), len(b)) for p, g, b in zip(prompts, greedy, beam, strict=True)]
    assert all(theirs >= ours - 1e-4 for ours, theirs, *_ in pairs)
    assert any(theirs > ours + 1e-3 for ours, theirs, *_ in pairs)
    assert BEAMS > 1


def test_blocking_and_penalty_by_loops_over_generated_tokens(frozen, prompts):
    long = [text * 4 for text in TEXTS]  # their length is how much is written
    blocked, punished = (decode(frozen, name, prompts, long) for name in ("ngram_blocking", "repetition_penalty"))
    pairs = [list(pairwise(row)) for row in blocked]
    assert any(len(set(own)) < len(own) for own in pairs)  # two tokens may come twice
    for prompt, row in zip(prompts, blocked, strict=True):
        for t, token in enumerate(row):
            logits = logits_after(frozen, prompt, row[:t])
            seen = {tuple(row[i : i + 3]) for i in range(t - 2)}
            logits[[v for v in range(len(logits)) if (*row[max(0, t - 2) : t], v) in seen]] = -torch.inf
            assert token == int(logits.argmax())
    for prompt, row in zip(prompts, punished, strict=True):
        for t, token in enumerate(row):
            logits = logits_after(frozen, prompt, row[:t])
            for repeat in set(row[:t]):  # BOS, which was not generated, goes free
                logits[repeat] = logits[repeat] / 1.2 if logits[repeat] > 0 else logits[repeat] * 1.2
            assert token == int(logits.argmax())
    greedy = decode(frozen, "greedy", prompts, long)
    assert greedy not in (punished, blocked)


def test_lexical_writes_the_texts_own_tokens_in_the_models_order(frozen, prompts):
    found = decode(frozen, "lexical", prompts, TEXTS)
    for prompt, row, text in zip(prompts, found, TEXTS, strict=True):
        assert Counter(row) == Counter(text)
        assert row[-1] == frozen.eos
        for t, token in enumerate(row[:-1]):
            left = Counter(text[:-1]) - Counter(row[:t])
            logits = logits_after(frozen, prompt, row[:t])
            assert token == max(left, key=lambda v: float(logits[v]))


def test_trie_writes_one_of_the_texts(frozen, prompts):
    found = decode(frozen, "trie", prompts, [*TEXTS[:4], TEXTS[0]])  # two targets may be the same
    assert all(row in TEXTS for row in found)
    for prompt, row in zip(prompts, found, strict=True):
        for t, token in enumerate(row):
            allowed = {text[t] for text in TEXTS[:4] if text[:t] == row[:t]}
            logits = logits_after(frozen, prompt, row[:t])
            assert token == max(allowed, key=lambda v: float(logits[v]))


def test_the_numeric_difference_is_small(frozen, prompts):
    assert 0 <= numeric_difference(frozen, prompts, 6) < 1e-4
    half = tiny_frozen(dtype=torch.bfloat16, hidden_size=64)
    assert numeric_difference(half, prompts.repeat(1, 1, 2), 6) < 1.0


def test_left_padding_is_wrong_in_peft_and_absent_here(frozen):
    """The trap: peft puts the prompt before the padding. What is written here has no padding to be put before."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3, token_dim=frozen.width)
    wrapped = get_peft_model(tiny_frozen().model, config).eval()
    prompt = wrapped.prompt_encoder["default"].embedding.weight.detach()
    with torch.no_grad():
        alone = wrapped(input_ids=torch.tensor([[1, 280, 290]]), attention_mask=torch.ones(1, 3)).logits[0, -1]
        mask = torch.tensor([[0, 0, 1, 1, 1]])
        left = wrapped(input_ids=torch.tensor([[2, 2, 1, 280, 290]]), attention_mask=mask).logits[0, -1]
        ours, _ = frozen.forward(prompt[None].repeat(2, 1, 1), torch.tensor([[280, 290, 2, 2], [280, 290, 281, 282]]))
    assert (alone - left).abs().max() > 0.01
    torch.testing.assert_close(ours[0, 2], alone)
    torch.testing.assert_close(ours[1, 2], alone)


def test_prompts_begin_where_they_are_told(frozen, tmp_path):
    def begin(**given):
        return first_prompts(frozen, SoftPromptSettings(ModelOptions("-"), target="-", **given), ["0 a", "0 b"])

    table = frozen.model.get_input_embeddings().weight
    for row in begin(vectors=5).flatten(0, 1):  # the default: vocabulary
        assert (table == row).all(dim=1).any()
    noise = begin(init="random", vectors=50)
    assert float(noise.std()) == pytest.approx(spread(frozen), rel=0.1)
    assert not torch.equal(noise[0], noise[1])
    ids = frozen.tokenizer.encode("the dog", add_special_tokens=False)
    repeated = begin(init="text", init_text="the dog", vectors=5)
    assert torch.equal(repeated[1], table[(ids * 5)[:5]])


def test_generate_stops_at_eos(frozen, prompts):
    rows = generate(frozen, prompts, 12)
    for row in rows.tolist():
        if frozen.eos in row:
            assert set(row[row.index(frozen.eos) :]) == {frozen.eos}
