"""Free greedy rollouts and the free_greedy_path mode against a loop, one whole forward a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, MistralForCausalLM

from stoical.decoding.sampling import greedy_rollouts
from stoical.decoding.scores import doc_scores, free_greedy_path_logprobs
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.trie.node_weights import TargetSettings
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries
from tests.support.tiny_model import EOS, VOCAB, tiny_model

PROMPT = [1, 40, 41, 42, 43]


@pytest.fixture
def model() -> MistralForCausalLM:
    return tiny_model().eval()


@pytest.fixture
def plain() -> MistralForCausalLM:
    """The same weights with transformers' own attention."""
    return tiny_model("eager").eval()


def loop_rollout(model: nn.Module, prompt: list[int], steps: int) -> tuple[list[list[float]], list[int]]:
    """ "Greedy decoding for max steps": the distribution of every step, in logarithms, and the token taken there."""
    written, distributions = list(prompt), []
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([written])).logits[0, -1].double().tolist()
        total = math.log(math.fsum(math.exp(logit) for logit in logits))
        distributions.append([logit - total for logit in logits])
        written.append(max(range(len(logits)), key=logits.__getitem__))
    return distributions, written[len(prompt) :]


def loop_scores(distributions: list[list[float]], query: TokenizedQuery, score: str) -> list[float]:
    """ "Averaging the log-probabilities of its constituent tokens", each out of its own step's distribution."""
    scores = []
    for docid, counted in zip(query.docid_ids, query.counted, strict=True):
        found = [distributions[step][token] for step, token in enumerate(docid)][:counted]
        scores.append(sum(found) / (len(found) if score == "mean" else 1))
    return scores


def rollout(model: nn.Module, prompt: Sequence[int], steps: int) -> Tensor:
    """[T, V] of one query."""
    query = TokenizedQuery("q", prompt, ["a"], [[5]], [1], [1])
    return greedy_rollouts(model, pack([query], TargetSettings()), steps)[0]


def proxy(model: MistralForCausalLM, batch: PackedBatch, score: Any) -> Tensor:
    steps = greedy_rollouts(model, batch, int(batch.node_depth.max()))
    return doc_scores(batch, free_greedy_path_logprobs(batch, steps), score)


def test_every_step_is_that_of_a_whole_forward(model: MistralForCausalLM, plain: MistralForCausalLM) -> None:
    distributions, written = loop_rollout(plain, PROMPT, 7)
    found = rollout(model, PROMPT, 7)
    assert found.shape == (7, VOCAB)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), distributions, atol=5e-6)
    assert found.argmax(dim=-1).tolist() == written
    assert len(set(written)) > 1, "steps that can be told apart"


@pytest.mark.parametrize("score", ["mean", "sum"])
@pytest.mark.parametrize(("terminated", "counted"), [(True, True), (True, False), (False, True)])
def test_the_proxy_scores_every_docid_along_one_path(
    terminated: bool, counted: bool, score: str, model: MistralForCausalLM, plain: MistralForCausalLM
) -> None:
    queries = ragged_queries(terminated=terminated, count_terminator=counted, negatives=2)
    batch = pack(queries, TargetSettings())
    found = proxy(model, batch, score)
    expected = []
    for query in queries:
        distributions, _ = loop_rollout(plain, list(query.prompt_ids), max(map(len, query.docid_ids)))
        expected += loop_scores(distributions, query, score)
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-6)
    exact = doc_scores(batch, node_logprobs(model, batch).logprobs, score)  # type: ignore[arg-type]
    assert not torch.allclose(found, exact, atol=0.1), "another score than the exact one"


def test_the_proxy_is_exact_where_the_rollout_writes_the_docid(model: MistralForCausalLM) -> None:
    """And where a docID has one token, whose distribution is after the prompt in both modes."""
    written = rollout(model, PROMPT, 4).argmax(dim=-1).tolist()
    docids = [written, [written[0] + 1], [written[0], written[1] + 1]]
    query = TokenizedQuery("q", PROMPT, ["a", "b", "c"], docids, [4, 1, 2], [1, 2, 3])
    batch = pack([query], TargetSettings())
    exact = doc_scores(batch, node_logprobs(model, batch).logprobs)
    torch.testing.assert_close(proxy(model, batch, "mean"), exact, atol=5e-6, rtol=0)


def test_eos_ends_nothing(plain: MistralForCausalLM, model: MistralForCausalLM) -> None:
    """A model that writes nothing but EOS: every docID's tokens are looked up all the same."""
    for each in (model, plain):
        with torch.no_grad():
            each.lm_head.weight[EOS] = (
                3 * each(input_ids=torch.tensor([PROMPT]), output_hidden_states=True).hidden_states[-1][0, -1]
            )
    distributions, written = loop_rollout(plain, PROMPT, 4)
    assert written[0] == EOS
    np.testing.assert_allclose(rollout(model, PROMPT, 4).numpy(), distributions, atol=2e-5)


def test_no_generation_config_is_read(model: MistralForCausalLM) -> None:
    before = rollout(model, PROMPT, 5)
    first = int(before[0].argmax())
    model.generation_config.update(
        max_new_tokens=1, min_new_tokens=9, do_sample=True, temperature=5.0, suppress_tokens=[first], num_beams=3
    )
    assert torch.equal(rollout(model, PROMPT, 5), before)


def gpt2() -> nn.Module:
    """Learned absolute positions: a written token's position is not its column after a padded prompt."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    return GPT2LMHeadModel._from_config(config, attn_implementation="trie_sdpa")


def adapted(config: PeftConfig) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(tiny_model(), config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mistral": tiny_model,
    "eager": lambda: tiny_model("eager"),
    "gpt2": gpt2,
    "lora": lambda: adapted(LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False)),
    "soft prompt": lambda: adapted(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_querys_rollout_does_not_depend_on_its_batch(name: str) -> None:
    """Prompts of 4, 9 and 13 tokens, padded to one width: nor on how many steps follow."""
    model, queries = MODELS[name]().eval(), ragged_queries()
    together = greedy_rollouts(model, pack(queries, TargetSettings()), 6)
    assert together.shape == (3, 6, VOCAB)
    for query, own in zip(queries, together, strict=True):
        distributions, written = loop_rollout(model, list(query.prompt_ids), 6)
        np.testing.assert_allclose(own.numpy(), distributions, atol=2e-5)
        assert own.argmax(dim=-1).tolist() == written
        alone = rollout(model, query.prompt_ids, 3)
        np.testing.assert_allclose(alone.numpy(), own[:3].numpy(), atol=1e-5)
        assert torch.equal(alone.argmax(dim=-1), own[:3].argmax(dim=-1))


def test_a_batch_of_prompts_is_run_together(model: MistralForCausalLM) -> None:
    seen: list[torch.Size] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    greedy_rollouts(model, pack(ragged_queries(), TargetSettings()), 4)
    assert [tuple(shape) for shape in seen] == [(3, 13), (3, 1), (3, 1), (3, 1)]


def test_roots_have_no_log_probability(model: MistralForCausalLM) -> None:
    batch = pack(ragged_queries(), TargetSettings())
    found = free_greedy_path_logprobs(batch, greedy_rollouts(model, batch, int(batch.node_depth.max())))
    assert (found[batch.node_token < 0] == 0).all()
    assert (found[batch.node_token >= 0] < 0).all()


def test_nothing_needs_a_gradient(model: MistralForCausalLM) -> None:
    assert not rollout(model, PROMPT, 2).requires_grad


def test_bfloat16_weights_give_float32_logprobs(model: MistralForCausalLM) -> None:
    batch = pack(ragged_queries(), TargetSettings())
    high, low = greedy_rollouts(model, batch, 1), greedy_rollouts(tiny_model().bfloat16().eval(), batch, 1)
    assert low.dtype == torch.float32
    np.testing.assert_allclose(low.exp().sum(dim=-1).numpy(), 1, atol=1e-5)  # bfloat16's would be off by a thousandth
    np.testing.assert_allclose(low.numpy(), high.numpy(), atol=0.3)
