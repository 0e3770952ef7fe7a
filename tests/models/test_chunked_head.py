"""A large vocabulary's logits a chunk at a time: values and gradients of the whole logits, and every kind of head."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import MistralForCausalLM

from stoical.decoding.free_run import greedy_is_valid
from stoical.encoding.packed_batch import PackedBatch
from stoical.models import chunked_head
from stoical.models.chunked_head import AfterHead, chunked_logprobs
from stoical.models.forward import node_logprobs
from stoical.models.reading import plain_head
from stoical.objectives.objective import weighted_nll
from stoical.trie.node_weights import TargetSettings
from tests.support.architectures import ARCHITECTURES, Architecture, queries
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries
from tests.support.tiny_model import tiny_model

WEIGHTS = TargetSettings(item="fractional", alpha=2.0, token="trie", beta=2.0)
CAPPED = AfterHead(scale=1.5, cap=4.0)
K, H, V, M = 7, 5, 23, 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of nine tokens, so that a vocabulary of 23 or 97 has several, the last one narrower."""
    monkeypatch.setattr(chunked_head, "CHUNK", 0)
    monkeypatch.setattr(chunked_head, "LEAST", 9)


def made_up(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """States, weight and bias of a head; nodes, several a slot, some of them the same token, some roots."""
    torch.manual_seed(0)
    states, weight, bias = (torch.randn(size, dtype=dtype) for size in ((K, H), (V, H), (V,)))
    place, token = torch.randint(K, (M,)), torch.randint(V, (M,))
    token[::7] = -1
    assert (place * V + token).unique().numel() < M
    return states, weight, bias, place, token


def by_loops(states: Tensor, weight: Tensor, bias: Tensor, place: Tensor, token: Tensor, after: AfterHead) -> Tensor:
    """[M] the definition, node by node, in float64."""
    found = []
    for slot, own in zip(place.tolist(), token.tolist(), strict=True):
        logits = after.scale * (weight @ states[slot] + bias)
        if after.cap is not None:
            logits = after.cap * torch.tanh(logits / after.cap)
        found.append(logits[own] - logits.logsumexp(0) if own >= 0 else logits.new_zeros(()))
    return torch.stack(found)


@pytest.mark.parametrize("after", [AfterHead(), AfterHead(scale=0.3), AfterHead(cap=2.0), CAPPED], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_a_loop_in_float64(after: AfterHead, biased: bool) -> None:
    states, weight, bias, place, token = made_up()
    leaves = [each.requires_grad_() for each in (states, weight, bias)[: 2 + biased]]
    exact = [each.detach().double().requires_grad_() for each in leaves]
    found, likeliest = chunked_logprobs(states, weight, bias if biased else None, place, token, after, likeliest=True)
    zero = torch.zeros(V, dtype=torch.float64)
    expected = by_loops(exact[0], exact[1], exact[2] if biased else zero, place, token, after)
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)
    down = torch.randn(M)
    for own, theirs in zip(
        torch.autograd.grad((down * found).sum(), leaves),
        torch.autograd.grad((down.double() * expected).sum(), exact),
        strict=True,
    ):
        assert (own - theirs).norm() < 1e-6 * theirs.norm()
    logits = states @ weight.T + (bias if biased else 0)
    assert likeliest is not None and torch.equal(likeliest, logits.argmax(dim=1))


@pytest.mark.parametrize("after", [AfterHead(), CAPPED], ids=str)
def test_gradients_are_finite_differences(after: AfterHead) -> None:
    states, weight, bias, place, token = made_up(torch.float64)
    leaves = [each.requires_grad_() for each in (states, weight, bias)]
    assert torch.autograd.gradcheck(lambda *given: chunked_logprobs(*given, place, token, after)[0], leaves)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(trained: int) -> None:
    states, weight, bias, place, token = made_up()
    leaves = [states, weight, bias]
    leaves[trained].requires_grad_()
    chunked_logprobs(states, weight, bias, place, token, AfterHead())[0].sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [place == trained for place in range(3)]


def test_logits_of_a_thousand_stay_finite() -> None:
    states, weight, bias, place, token = made_up()
    leaves = [each.mul_(30).requires_grad_() for each in (states, weight)]
    found, _ = chunked_logprobs(*leaves, bias, place, token, AfterHead())
    assert found.min() < -1000
    expected = by_loops(*(each.double() for each in (*leaves, bias)), place, token, AfterHead())
    torch.testing.assert_close(found, expected.float())
    assert all(each.isfinite().all() for each in torch.autograd.grad(found.sum(), leaves))


def test_the_first_of_equal_tokens_is_the_likeliest_across_chunks() -> None:
    states, weight, bias, place, token = made_up()
    weight[:] = weight[0]
    bias[:] = 0.0
    bias[[3, 11, 20]] = 1.0
    likeliest = chunked_logprobs(states, weight, bias, place, token, AfterHead(), likeliest=True)[1]
    assert likeliest is not None and likeliest.tolist() == [3] * K


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_makes_low_logits_and_reduces_them_in_float32(dtype: torch.dtype) -> None:
    states, weight, bias, place, token = made_up()
    leaves = [each.requires_grad_() for each in (states, weight, bias)]
    with torch.autocast("cpu", dtype):
        logits = nn.functional.linear(*leaves)
        found, _ = chunked_logprobs(*leaves, place, token, AfterHead())
    assert logits.dtype == dtype and found.dtype == torch.float32
    expected = logits.double().log_softmax(dim=1)[place, token.clamp(min=0)].masked_fill(token < 0, 0.0)
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)
    step = torch.finfo(dtype).eps
    for own, theirs in zip(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert own.dtype == torch.float32
        assert (own - theirs).norm() < 2 * step * theirs.norm()


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def values_and_gradients(model: nn.Module, batch: PackedBatch, **kwargs: Any) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    logprobs = node_logprobs(model, batch, **kwargs).logprobs
    weighted_nll(logprobs, batch.node_weights).backward()
    return logprobs.detach(), gradients(model)


class Heads:
    """The shapes of what heads gave while this was watching."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.out_features in (97, 100):
                module.register_forward_hook(lambda _, __, output: self.shapes.append(tuple(output.shape)))


def check_equal(model: nn.Module, batch: PackedBatch, **kwargs: Any) -> None:
    """The chunked pass has the values and gradients of the pass with all logits, and makes none of these."""
    expected, expected_gradient = values_and_gradients(model, batch, keep="logits", **kwargs)
    node_logprobs(model, batch, **kwargs)  # tries the head out, once a model
    heads = Heads(model)
    found, gradient = values_and_gradients(model, batch, **kwargs)
    assert heads.shapes == [(1, 1, len(found))] * len(heads.shapes)
    assert len(heads.shapes) == (2 if kwargs.get("layout") == "cache" else 1)
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)
    assert (gradient - expected_gradient).norm() < 1e-6 * expected_gradient.norm()


RUN = [each for each in ARCHITECTURES if each.refused is None]
SPECIAL = [each for each in RUN if each.kind in ("gemma2", "cohere", "phi", "gpt2", "bert", "qwen3_moe")]
DIVIDED = Architecture("granite", config={"logits_scaling": 7.0})


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        *((each, "sequence") for each in [*RUN, DIVIDED]),
        *((each, layout) for each in [*SPECIAL, DIVIDED] for layout in ("cache", "pointwise")),
    ],
    ids=lambda each: each.kind if isinstance(each, Architecture) else each,
)
def test_every_head_has_the_values_and_gradients_of_its_logits(architecture: Architecture, layout: str) -> None:
    """Softcap, factor, divisor, bias, tied weights, a head inside another module."""
    check_equal(architecture.build(), pack(queries(), WEIGHTS), layout=layout)


def with_lora(**settings: Any) -> nn.Module:
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, **settings)
    return get_peft_model(tiny_model(), config)


def checkpointed() -> nn.Module:
    model = tiny_model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def low() -> nn.Module:
    return tiny_model(initializer_range=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_model(tie_word_embeddings=True),
        lambda: tiny_model("eager"),
        lambda: with_lora(target_modules=["q_proj", "up_proj"]),
        checkpointed,
    ],
    ids=["tied", "rectangle", "lora", "checkpointed"],
)
def test_it_holds_for(make: Callable[[], nn.Module]) -> None:
    check_equal(make(), pack(ragged_queries(), WEIGHTS))


def test_a_soft_prompt_comes_before_it() -> None:
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    check_equal(get_peft_model(tiny_model(), settings), pack(ragged_queries(), WEIGHTS), layout="cache")


def test_hidden_states_come_with_it() -> None:
    model, batch = tiny_model(), pack(ragged_queries(), WEIGHTS)
    whole, chunked = (node_logprobs(model, batch, hidden=True, keep=keep) for keep in ("logits", "logprobs"))
    assert whole.hidden is not None and chunked.hidden is not None
    assert torch.equal(whole.hidden, chunked.hidden)


def test_autocast_gives_what_it_gives_with_all_logits() -> None:
    """Within the steps of bfloat16: the same low logits, whose gradients are rounded alike."""
    model, batch = low(), pack(ragged_queries(), WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_gradient = values_and_gradients(model, batch, keep="logits")
        found, gradient = values_and_gradients(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (gradient - expected_gradient).norm() < 0.02 * expected_gradient.norm()


def test_a_wrapper_that_rounds_outputs_rounds_no_value() -> None:
    """As FSDP2 does where its policy has a low output_dtype: gradients are rounded there, values are not."""
    model, batch = tiny_model(), pack(ragged_queries(), WEIGHTS)
    expected, expected_gradient = values_and_gradients(model, batch)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.bfloat16())
    found, gradient = values_and_gradients(model, batch)
    assert torch.equal(found, expected)
    assert 1e-5 < (gradient - expected_gradient).norm() / expected_gradient.norm() < 0.01


def test_micro_batches_add_up() -> None:
    model, batches = tiny_model(), [pack([query], WEIGHTS) for query in ragged_queries()]
    for batch in batches:
        weighted_nll(node_logprobs(model, batch).logprobs, batch.node_weights).backward()
    added = gradients(model)
    _, expected = values_and_gradients(model, pack(ragged_queries(), WEIGHTS), keep="logits")
    assert (added - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
def test_the_likeliest_tokens_are_those_of_the_logits(layout: Any) -> None:
    model, batch = tiny_model(), pack(ragged_queries(), WEIGHTS)
    whole, chunked = (node_logprobs(model, batch, layout, keep=keep) for keep in ("logits", "likeliest"))
    assert chunked.logits is None
    assert torch.equal(whole.likeliest, chunked.likeliest)
    assert torch.equal(greedy_is_valid(batch, whole), greedy_is_valid(batch, chunked))


def test_threads_do_not_read_each_others_passes() -> None:
    """A ranker in a server answers several at once."""
    model, batches = tiny_model().eval(), [pack(ragged_queries()[:count], WEIGHTS) for count in (1, 2, 3)]
    with torch.no_grad():
        alone = [node_logprobs(model, batch).logprobs for batch in batches]
    model.register_forward_pre_hook(lambda *_: sleep(0.01))  # another thread's turn, in the middle of a pass

    def score(batch: PackedBatch) -> Tensor:
        with torch.no_grad():
            return node_logprobs(model, batch).logprobs

    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(score, batches * 3))
    assert all(torch.equal(own, wanted) for own, wanted in zip(together, alone * 3, strict=True))


def test_few_logits_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not handed out all the same, so that what asks for too little fails with small models, too."""
    monkeypatch.setattr(chunked_head, "CHUNK", 10**6)
    model, batch = tiny_model(), pack(ragged_queries(), WEIGHTS)
    whole = node_logprobs(model, batch, keep="logits")
    heads, output = Heads(model), node_logprobs(model, batch, keep="likeliest")
    assert heads.shapes[-1][-1] == 97
    assert torch.equal(whole.logprobs, output.logprobs)
    assert torch.equal(whole.likeliest, output.likeliest)
    with pytest.raises(ValueError, match=r"kept no logits.*keep='logits'.*needs_logits"):
        output.logits_at(torch.tensor([1]))
    with pytest.raises(ValueError, match="kept no logits"):
        _ = node_logprobs(model, batch).likeliest


class Divided(MistralForCausalLM):
    """A model that does to its logits what no config says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits / 3
        return output


class Cut(MistralForCausalLM):
    """A model whose last tokens are there for its head's size alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits[..., :90]
        return output


class Quantized(nn.Linear):
    """As bitsandbytes' layers: a linear layer whose forward is its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def of_class(kind: type[MistralForCausalLM]) -> nn.Module:
    model = tiny_model()
    model.__class__ = kind
    return model


def quantized() -> nn.Module:
    model = tiny_model()
    model.lm_head.__class__ = Quantized
    return model


def offloaded() -> nn.Module:
    """As accelerate's hooks do: the module's forward is an attribute of its own."""
    model = tiny_model()
    forward = model.lm_head.forward
    model.lm_head.forward = lambda states: forward(states) * 2
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_class(Divided),
        lambda: of_class(Cut),
        lambda: with_lora(target_modules=["q_proj", "lm_head"]),
        lambda: with_lora(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        quantized,
        offloaded,
    ],
    ids=["divided", "cut", "lora on the head", "saved head", "quantized", "offloaded"],
)
def test_other_heads_make_their_logits_whole(make: Callable[[], nn.Module]) -> None:
    model, batch = make(), pack(ragged_queries(), WEIGHTS)
    expected, expected_gradient = values_and_gradients(model, batch, keep="logits")
    found, gradient = values_and_gradients(model, batch)
    assert torch.equal(found, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    plain = MistralForCausalLM.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((*kwargs["input_ids"].shape, self.training))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(MistralForCausalLM, "forward", forward)
    return seen


def test_a_model_is_tried_out_once_and_left_as_it_was(forwards: list[tuple[int, ...]]) -> None:
    """On one token, in eval mode, whatever the batch: processes that share weights make as many passes each."""
    model, batch = tiny_model().train(), pack(ragged_queries(), WEIGHTS)
    state = torch.get_rng_state()
    for _ in range(2):
        node_logprobs(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert forwards == [(1, 1, False), *[(1, batch.num_tokens, True)] * 2]
    assert model.training
    head = plain_head(model)
    assert head is model.lm_head
    assert not head._forward_hooks and not model._forward_hooks and "forward" not in vars(head)


def test_an_error_leaves_the_model_as_it_was() -> None:
    model, batch = tiny_model().train(), pack(ragged_queries(), WEIGHTS)
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"layout=cache.*activation checkpointing"):
        node_logprobs(model, batch, "cache")
    assert not model.lm_head._forward_hooks and not model._forward_hooks and "forward" not in vars(model.lm_head)
