"""The memory estimate against what a training step allocates, and what is said where a run will not fit."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

import stoical.build.model
import stoical.training.build
import stoical.training.memory_fit
from benchmarks.synthetic import random_query
from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.model import meta_model
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.data.dataset import load_split
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenization import pad_id
from stoical.models import chunked_head
from stoical.models.forward import node_logprobs
from stoical.objectives.objective import weighted_nll
from stoical.training.arguments import micro_batches
from stoical.training.build import build_trainer, training_rows
from stoical.training.dry_run import show
from stoical.training.memory import GIB, MicroBatch, ModelShape, TrainingSetup, model_shape, step_memory
from stoical.training.memory_fit import (
    RunMemory,
    device_memory,
    largest_batch,
    micro_batch,
    run_memory,
    savings,
    shortage,
)
from stoical.trie.node_weights import TargetSettings
from tests.support.commands import run
from tests.support.small_data import TINY, write_dataset
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_recipe

MIDDLE = {
    "vocab_size": 512,
    "hidden_size": 192,
    "intermediate_size": 672,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
SEVEN_B = ModelShape(7_248_023_552, 0, 2 * 32768 * 4096, 32, 4096, 4096, 1024, 14336, 32768, 1_664_000)


@pytest.mark.parametrize(
    ("kind", "given", "inner"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}, 64),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 24}, 24),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "intermediate_size": None}, 64),
        ("gptj", {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}, 64),
        ("opt", {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 24}, 24),
        ("falcon", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_hidden_size": 24}, 24),
        ("mistral", {"hidden_size": 32, "num_hidden_layers": 1}, 14336),
    ],
)
def test_the_width_of_the_inner_layer_whatever_a_config_calls_it(kind: str, given: dict[str, Any], inner: int) -> None:
    config = AutoConfig.for_model(kind, vocab_size=100, **given)
    with torch.device("meta"):
        assert model_shape(AutoModelForCausalLM.from_config(config), config).intermediate == inner


def test_layers_of_different_widths_count_by_their_mean() -> None:
    """Gemma 4's full layers have wider heads, and fewer of keys; Gemma 3n lists a width for every layer."""
    own = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    kinds = ["sliding_attention", "full_attention"]
    wide = {
        "attention_k_eq_v": True,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "vocab_size_per_layer_input": 100,
    }
    gemma4 = AutoConfig.for_model("gemma4_text", num_hidden_layers=2, layer_types=kinds, **wide, **own)
    gemma3n = AutoConfig.for_model(
        "gemma3n_text",
        num_hidden_layers=2,
        intermediate_size=[48, 96],
        num_kv_shared_layers=0,
        layer_types=kinds,
        **own,
    )
    with torch.device("meta"):
        first, second = (model_shape(AutoModelForCausalLM.from_config(config), config) for config in (gemma4, gemma3n))
    assert (first.query_width, first.key_width) == ((4 * 8 + 4 * 16) / 2, (2 * 8 + 1 * 16) / 2)
    assert (second.query_width, second.key_width, second.intermediate) == (4 * 8, 2 * 8, (48 + 96) / 2)


def test_a_model_without_some_of_the_small_ones_settings_trains(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    nulls = (f"model.config.{key}=null" for key in ("intermediate_size", "num_key_value_heads", "sliding_window"))
    kept = (word for word in TINY if not word.startswith(("model.config.intermediate", "model.config.num_key_value")))
    words = (*kept, *nulls, "model.name=gpt2", f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'run'}")
    assert run("train", "recipe=wordnet_alpha2,small", *words) == 0


def peak_bytes(model, optimizer, step):
    """The most that two steps of two accumulated micro-batches hold, weights included, as the allocator reports it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        for _ in range(2):
            step()
            step()
            optimizer.step()
            optimizer.zero_grad()
    now = most = sum(p.numel() * p.element_size() for p in model.parameters())
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("bf16", "checkpointing", "layout", "vocabulary", "keep"),
    [
        (False, False, "sequence", 512, "logits"),
        (True, False, "sequence", 512, "logits"),
        (False, True, "sequence", 512, "logits"),
        (True, True, "sequence", 512, "logits"),
        (True, False, "cache", 512, "logits"),
        (False, False, "pointwise", 512, "logits"),
        (False, False, "sequence", 8192, "logprobs"),
        (True, True, "sequence", 8192, "logprobs"),
    ],
)
def test_the_estimate_is_what_a_step_allocates(bf16, checkpointing, layout, vocabulary, keep, monkeypatch):
    """To 15%, of the whole, and to 25% of what is not weights, gradients and optimizer, which are exact."""
    monkeypatch.setattr(chunked_head, "CHUNK", 2**16)
    model = tiny_model(**MIDDLE | {"vocab_size": vocabulary}, initializer_range=0.02)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    queries = [random_query(seed, prompt, 8, vocabulary) for seed, prompt in enumerate((120, 30))]
    batch = TrieTargetCollator(TargetSettings(item="stepwise"), 0, prune=True)(queries)["batch"]
    node_logprobs(model, batch, layout, keep=keep)  # tries the head out
    recipe = Recipe(layout=layout, optimizer="trainer")
    recipe.training |= {"bf16": bf16, "activation_checkpointing": checkpointing}
    PartialState(cpu=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = weighted_nll(node_logprobs(model, batch, layout, keep=keep).logprobs, batch.node_weights)
        loss.backward()

    run = run_memory(recipe, model, model.config, batch)
    run = replace(run, setup=replace(run.setup, whole_logits=keep == "logits"))
    measured = peak_bytes(model, torch.optim.AdamW(model.parameters()), step) / GIB
    assert run.total == pytest.approx(measured, rel=0.15)
    parts = step_memory(run.shape, run.batch, run.setup)
    fixed = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert fixed == pytest.approx(16 * sum(p.numel() for p in model.parameters()) / GIB)
    assert run.total - fixed == pytest.approx(measured - fixed, rel=0.25)


@pytest.mark.parametrize(
    ("dtype", "dropout", "checkpointing"),
    [(torch.bfloat16, 0.1, False), (torch.bfloat16, 0.0, True), (torch.float32, 0.1, False)],
)
def test_the_estimate_holds_for_adapters(dtype, dropout, checkpointing):
    """LoRA over a frozen model, bfloat16 computation: to 15% of the whole, 25% of what the step itself needs."""
    model = tiny_model(**MIDDLE, initializer_range=0.02).to(dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    settings = LoraConfig(task_type="CAUSAL_LM", r=8, lora_dropout=dropout, target_modules="all-linear")
    model = get_peft_model(model, settings).train()
    queries = [random_query(seed, 120, 8, MIDDLE["vocab_size"]) for seed in range(2)]
    batch = TrieTargetCollator(TargetSettings(item="stepwise"), 0, prune=True)(queries)["batch"]

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = weighted_nll(node_logprobs(model, batch).logprobs, batch.node_weights)
        loss.backward()

    setup = TrainingSetup(
        True, 2, checkpointing, frozen_bytes=dtype.itemsize, lora=True, dropout_bytes=4 * (dropout > 0)
    )
    parts = step_memory(model_shape(model, model.config), micro_batch(batch, "sequence", "trie_sdpa"), setup)
    trained = [p for p in model.parameters() if p.requires_grad]
    measured = peak_bytes(model, torch.optim.AdamW(trained), step) / GIB
    assert sum(parts.values()) == pytest.approx(measured, rel=0.15)
    fixed = parts["weights"] + parts["gradients"] + parts["optimizer"]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert fixed == pytest.approx((weights + 12 * sum(p.numel() for p in trained)) / GIB)
    assert sum(parts.values()) - fixed == pytest.approx(measured - fixed, rel=0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_estimate_holds_for_a_soft_prompt(dtype):
    """A prompt before a frozen model: to 15% of the whole, 25% of what the step itself needs."""
    model = tiny_model(**MIDDLE, initializer_range=0.02).to(dtype)
    shape = model_shape(model.requires_grad_(False), model.config)
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)
    model = get_peft_model(model, settings).train()
    queries = [random_query(seed, 120, 8, MIDDLE["vocab_size"]) for seed in range(2)]
    batch = TrieTargetCollator(TargetSettings(item="stepwise"), 0, prune=True)(queries)["batch"]

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = weighted_nll(node_logprobs(model, batch, "cache").logprobs, batch.node_weights)
        loss.backward()

    (trained,) = [p for p in model.parameters() if p.requires_grad]
    shape = replace(shape, trainable=trained.numel())
    low = dtype == torch.bfloat16
    setup = TrainingSetup(low, 2, frozen_bytes=dtype.itemsize, soft_prompt=True)
    sizes = micro_batch(batch, "cache", "trie_sdpa").longer(20, batch.node_up.shape[1])
    parts = step_memory(shape, sizes, setup)
    measured = peak_bytes(model, torch.optim.AdamW([trained]), step) / GIB
    assert sum(parts.values()) == pytest.approx(measured, rel=0.15)
    fixed = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert sum(parts.values()) - fixed == pytest.approx(measured - fixed, rel=0.25)


def test_shards_copies_and_adapters():
    batch = MicroBatch(rows=8, tokens=8 * 400, attended=8 * 400, slots=8 * 80, mask=8 * 80 * 400)
    setup = TrainingSetup(low_precision=True, states=1)

    def parts(**changes):
        fields = {name: getattr(setup, name) for name in setup.__slots__}
        return step_memory(SEVEN_B, batch, TrainingSetup(**fields | changes))

    weights = 4 * SEVEN_B.trainable / GIB
    assert parts()["weights"] == parts()["gradients"] == parts()["optimizer"] == pytest.approx(weights)
    assert parts(sharding="ddp", processes=8)["gradients"] == pytest.approx(2 * weights)
    zero2 = parts(sharding="zero2", processes=8)
    assert (zero2["weights"], zero2["gradients"]) == pytest.approx((weights, weights / 8))
    full = parts(sharding="full", processes=8)
    assert (full["weights"], full["gradients"], full["optimizer"]) == pytest.approx([weights / 8] * 3)
    assert full["gathered"] < 0.1 * weights
    assert "casts" not in full
    assert parts()["casts"] == pytest.approx(weights / 2, rel=0.05)
    whole = parts(frozen_bytes=2.0, trained_bytes=2)  # bfloat16 weights, trained: Adafactor's momentum stays float32
    assert (whole["weights"], whole["gradients"], whole["optimizer"]) == pytest.approx(
        (weights / 2, weights / 2, weights)
    )
    assert "casts" not in whole
    assert parts(checkpointing=True)["activations"] < 0.15 * parts()["activations"]


def test_advice_is_sorted_by_what_it_saves(monkeypatch):
    monkeypatch.setattr(stoical.training.memory_fit, "_mask_bytes", lambda: 1)  # a GPU's
    batch = MicroBatch(rows=8, tokens=8 * 400, attended=8 * 400, slots=8 * 80, mask=8 * 80 * 400)
    run = RunMemory(SEVEN_B, batch, TrainingSetup(low_precision=True, states=1))
    found = savings(run, 110.0, "sequence", devices=8)
    assert [advice.split("=")[0].split(" ")[0] for _, advice in found] == [
        *("QLoRA", "FSDP2", "LoRA"),
        *("training.activation_checkpointing", "training.per_device_train_batch_size"),
    ]
    assert [saved for saved, _ in found] == sorted((saved for saved, _ in found), reverse=True)
    by_name = {advice: saved for saved, advice in found}
    eight = RunMemory(SEVEN_B, batch, TrainingSetup(True, 1, sharding="full", processes=8))
    assert by_name["FSDP2 over 8 devices (accelerate_configs/fsdp2.yaml)"] == pytest.approx(run.total - eight.total)
    fits = RunMemory(SEVEN_B, batch.smaller(4), run.setup)
    assert fits.total < 110 < run.total
    assert by_name["training.per_device_train_batch_size=4"] == pytest.approx(run.total - fits.total)
    assert not any("checkpointing" in advice for _, advice in savings(run, 80.0, "cache", devices=8))
    adapters = TrainingSetup(True, 2, sharding="full", lora=True, frozen_bytes=2.0)
    shape = replace(SEVEN_B, trainable=40_000_000, frozen=SEVEN_B.parameters)
    left = savings(RunMemory(shape, batch.smaller(1), adapters), 1.0, "cache", devices=8)
    assert [advice for _, advice in left] == ["QLoRA (recipe=...,qlora)"]


@pytest.mark.parametrize("overlay", ["LoRA", "QLoRA"])
def test_what_is_promised_of_adapters_is_what_their_overlay_is_estimated_at(overlay):
    PartialState(cpu=True)
    queries = [random_query(seed, 200, 10, 32768) for seed in (0, 1)]
    batch = TrieTargetCollator(TargetSettings(), 0, True)(queries)["batch"]
    plain = load_recipe("recipe=wordnet_alpha2,random_7b")
    config = AutoConfig.for_model("mistral", **plain.model.config)
    run = run_memory(plain, meta_model(plain, config), config, batch)
    recipe = load_recipe(f"recipe=wordnet_alpha2,{overlay.lower()}")
    adapted = run_memory(recipe, meta_model(recipe, config), config, batch)
    assert adapted.shape.trainable == 41_943_040
    promised = {advice.split(" ")[0]: saved for saved, advice in savings(run, 40.0, "sequence", devices=2)}
    assert run.total - adapted.total == pytest.approx(promised[overlay], abs=0.02)


def test_a_run_that_will_not_fit_is_warned_of_before_it_loads(tmp_path, monkeypatch, caplog):
    write_dataset(tmp_path / "data")
    recipe = load_recipe(*TINY, "recipe=wordnet_alpha2,small", f"data.path={tmp_path / 'data'}", f"output={tmp_path}")

    def load(*arguments):
        raise RuntimeError("loading")

    monkeypatch.setattr(stoical.build.model, "build_model", load)
    for limit, warned in ((1000.0, False), (0.0, True)):
        monkeypatch.setattr(
            stoical.training.memory_fit, "device_memory", lambda limit=limit: (limit, "free on a tiny GPU")
        )
        with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="loading"):
            build_trainer(recipe)
        assert ("That is more than the 0.0 GiB free on a tiny GPU" in caplog.text) == warned
    assert "GiB  training.per_device_train_batch_size=1" in caplog.text
    assert caplog.text.count("memory, estimated") == 1


def test_a_small_run_fits_this_machine():
    PartialState(cpu=True)
    limit, place = device_memory()
    assert limit > 0.5
    assert place.startswith("of this machine")
    model = tiny_model()
    run = RunMemory(model_shape(model, model.config), MicroBatch(2, 100, 100, 20, 2000), TrainingSetup(False, 2))
    assert shortage(run, "sequence") is None


@pytest.mark.parametrize(("overlay", "whole"), [("", False), (",expected_reward", True)])
def test_a_dry_run_counts_the_nodes_that_training_packs(tmp_path, overlay, whole):
    """Next-token prediction needs one docID's nodes, and a mitigation that looks at the whole trie all of them."""
    recipe = tiny_recipe(tmp_path, "dry_run=true", recipe=f"wordnet_ntp{overlay}")
    micro_size, _ = micro_batches(recipe, 1)
    train = load_split(recipe.data.path, "train")
    tokenizer = build_tokenizer(recipe, train)
    dataset = training_rows(recipe, train, build_encoder(recipe, tokenizer))
    packed, pruned = (
        largest_batch(dataset, micro_size, TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune))
        for prune in (not whole, True)
    )
    assert (packed.input_ids.shape[1] > pruned.input_ids.shape[1]) == whole
    assert f"a micro-batch of {micro_size} x {packed.input_ids.shape[1]} tokens" in show(recipe)
