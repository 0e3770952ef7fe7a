"""A batch as one flat row of tokens gives what the padded rectangle gives: values, gradients, every kind of model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models import forward
from stoical.models.checks import check_model
from stoical.models.forward import node_logprobs
from stoical.models.mixtures import Mixture
from stoical.models.self_check import rows_alone
from stoical.objectives.objective import weighted_nll
from stoical.trie.node_weights import TargetSettings
from tests.support.architectures import ARCHITECTURES, GPT, MAX_LENGTH, ROPE, Architecture, queries
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.tiny_model import tiny_model

FLAT = [each for each in ARCHITECTURES if each.refused is None and each.attention == "trie_sdpa"]
WEIGHTS = TargetSettings(item="fractional", alpha=2.0)
TOGETHER = TargetSettings(item="fractional", alpha=2.0, token="trie", beta=2.0)


@contextmanager
def rectangles() -> Iterator[None]:
    """`layout=sequence` runs rectangles, whatever the attention."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "is_flat", lambda attention, queries: False)
        yield


def gradients(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def values_and_gradients(model: nn.Module, batch: PackedBatch, **kwargs: Any) -> tuple[Tensor, Tensor]:
    logprobs = node_logprobs(model, batch, **kwargs).logprobs
    return logprobs.detach(), gradients(model, weighted_nll(logprobs, batch.node_weights))


def check_equal(model: nn.Module, batch: PackedBatch, **kwargs: Any) -> None:
    """Within float32 rounding: a wrong place, mask or position is above 1e-2."""
    logprobs, gradient = values_and_gradients(model, batch, **kwargs)
    with rectangles():
        expected, expected_gradient = values_and_gradients(model, batch, **kwargs)
    torch.testing.assert_close(logprobs, expected, atol=5e-6, rtol=0)
    assert (gradient - expected_gradient).norm() < 2e-6 * expected_gradient.norm()


@pytest.mark.parametrize("architecture", FLAT, ids=lambda each: each.kind)
def test_every_architecture_has_the_rectangles_values_and_gradients(architecture: Architecture) -> None:
    check_equal(architecture.build(), pack(queries(), TOGETHER))


def no_nodes() -> list[TokenizedQuery]:
    """Without terminators, docIDs of one token make no node column."""
    return [
        replace(query, docids=["a", "b"], docid_ids=[[5], [9]], counted=[1, 1], ranks=[1, 2])
        for query in ragged_queries(terminated=False)
    ]


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize(
    "make",
    [ragged_queries, no_nodes, lambda: [*no_nodes(), *ragged_queries()], lambda: ragged_queries(negatives=3)],
    ids=["ragged", "no nodes", "some without nodes", "negatives"],
)
def test_any_batch_has_the_rectangles_values_and_gradients(
    make: Callable[[], list[TokenizedQuery]], prune: bool
) -> None:
    check_equal(tiny_model(), pack(make(), WEIGHTS, prune))


def with_lora(**settings: Any) -> nn.Module:
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False, **settings)
    return get_peft_model(tiny_model(), config)


def checkpointed() -> nn.Module:
    model = tiny_model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


@pytest.mark.parametrize("make", [with_lora, checkpointed])
def test_adapters_and_checkpointing_have_them_too(make: Callable[[], nn.Module]) -> None:
    check_equal(make(), pack(ragged_queries(), WEIGHTS))


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_run_again_after_another_batch_find_their_own_mask(reentrant: bool) -> None:
    """Second passes: checkpointing repeats the first pass's layers when the second, of other queries, has long run."""
    batches = pack(ragged_queries(), WEIGHTS), pack([random_query(7, 5, 20), random_query(8, 2, 6)], WEIGHTS)

    def gradient(model: nn.Module) -> Tensor:
        return gradients(model, sum(weighted_nll(node_logprobs(model, b).logprobs, b.node_weights) for b in batches))

    model = tiny_model().train()
    expected = gradient(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    torch.testing.assert_close(gradient(model), expected, rtol=1e-5, atol=1e-7)


def test_hidden_states_are_the_rectangles() -> None:
    model, batch = tiny_model(), pack(ragged_queries(), WEIGHTS)
    found = node_logprobs(model, batch, hidden=True, keep="logits")
    with rectangles():
        expected = node_logprobs(model, batch, hidden=True, keep="logits")
    assert found.hidden is not None and expected.hidden is not None
    for name in ("hidden", "logits"):
        pair = [getattr(output, name)[output.row, output.slot] for output in (found, expected)]
        torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)


def test_mixtures_stand_where_they_stand_in_the_rectangle() -> None:
    batch = pack(ragged_queries(), WEIGHTS)
    row, column = batch.node_row, batch.node_col
    fed = column >= batch.prompt_width
    places = torch.stack([row[fed], column[fed]]).unique(dim=1)[:, ::2]
    weights = torch.rand(places.shape[1], 3, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    check_equal(tiny_model(), batch, mixture=Mixture(places[0], places[1], torch.tensor([5, 50, 80]), weights))


def test_layers_see_tokens_alone_and_the_head_their_parents() -> None:
    model, batch = tiny_model(), pack(ragged_queries(), WEIGHTS)
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("model.embed_tokens", "model.layers.1.mlp", "lm_head"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: tuple(output.shape[:2])}))
    node_logprobs(model, batch, keep="logits")
    read = len(set(zip(batch.node_row.tolist(), batch.node_col.tolist(), strict=True)))
    tokens = (1, batch.num_tokens)
    assert batch.num_tokens < batch.input_ids.numel()
    assert seen == {"model.embed_tokens": tokens, "model.layers.1.mlp": tokens, "lm_head": (1, read)}


@pytest.mark.parametrize(("attention", "count"), [("sdpa", 3), ("eager", 3), ("trie_sdpa", 1)])
def test_other_attentions_and_single_queries_run_rectangles(attention: str, count: int) -> None:
    model, batch, seen = tiny_model(attention), pack(ragged_queries()[:count], WEIGHTS), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:2]))
    node_logprobs(model, batch, keep="logits")
    assert seen == [(count, batch.node_up.shape[1] + 1)]


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("gpt2", config={**GPT, "n_positions": MAX_LENGTH}),
        Architecture("opt", config={"word_embed_proj_dim": 32, "ffn_dim": 48, "max_position_embeddings": MAX_LENGTH}),
        Architecture("bert", config={"is_decoder": True, "max_position_embeddings": MAX_LENGTH}),
        Architecture("mistral", config={"sliding_window": MAX_LENGTH, "max_position_embeddings": MAX_LENGTH}),
        Architecture("gemma3_text", config={"sliding_window": MAX_LENGTH}),
        Architecture("llama4_text", config={"num_local_experts": 4, "attention_chunk_size": MAX_LENGTH}),
        Architecture("llama", config={"rope_parameters": ROPE, "max_position_embeddings": MAX_LENGTH}),
    ],
    ids=lambda each: each.kind,
)
def test_a_row_may_be_longer_than_positions_windows_and_chunks(architecture: Architecture) -> None:
    """What counts is a query's length: 12 queries make a row of over 200 tokens, and no query has over 40."""
    model, batch = architecture.build(), pack([replace(q, query_id=f"{n}") for n in range(4) for q in queries()])
    check_model(model, MAX_LENGTH)
    assert batch.num_tokens > 5 * MAX_LENGTH
    with torch.no_grad():
        logprobs = node_logprobs(model, batch).logprobs
        for path, alone in rows_alone(model, batch):
            torch.testing.assert_close(logprobs[path], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_the_rectangles(dtype: torch.dtype) -> None:
    """The same products of the same numbers, whose sums may be rounded in another order: a step of bfloat16 or so."""
    model, batch = tiny_model(initializer_range=0.05), pack(ragged_queries(), WEIGHTS)
    with torch.autocast("cpu", dtype):
        found = node_logprobs(model, batch).logprobs
        with rectangles():
            expected = node_logprobs(model, batch).logprobs
    torch.testing.assert_close(found, expected, atol=torch.finfo(dtype).eps * 4, rtol=0)


def test_attention_dropout_drops_and_eval_does_not() -> None:
    model, batch = tiny_model(attention_dropout=0.5), pack(ragged_queries(), WEIGHTS)
    clean = node_logprobs(model.eval(), batch).logprobs
    noisy = [node_logprobs(model.train(), batch).logprobs for _ in range(2)]
    assert not torch.allclose(noisy[0], noisy[1], atol=1e-3)
    assert torch.equal(node_logprobs(model.eval(), batch).logprobs, clean)
