"""LoRA: adapters over a frozen model, trained, saved alone, resumed, evaluated and ranked with."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from stoical.build.model import build_model
from stoical.commands import evaluate
from stoical.models.adapters import add_lora, load_lora
from stoical.models.forward import node_logprobs
from stoical.ranker import Ranker
from stoical.runs.resume import resume_from
from stoical.training.build import build_trainer
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_lora
from tests.support.tiny_run import train_tiny
from tests.support.training import trained_run


def weights(model: nn.Module, kind: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if ("lora_" in name) == (kind == "lora")}


def test_adapters_train_and_the_model_below_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = build_trainer(tiny_lora(tmp_path))
    base, adapters = weights(trainer.model, "base"), weights(trainer.model, "lora")
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert all(torch.equal(value, base[name]) for name, value in weights(trainer.model, "base").items())
    moved = {name for name, value in weights(trainer.model, "lora").items() if not torch.equal(value, adapters[name])}
    assert moved == set(adapters)


def test_how_many_parameters_train_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = build_trainer(tiny_lora(tmp_path, "lora.target_modules=[q_proj]")).model
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * (16 + 16)
    assert [m for m in caplog.messages if m.startswith("LoRA: 64 of ") and "parameters train" in m] != []
    assert sum("parameters train" in m for m in caplog.messages) == 1


def test_the_base_in_bfloat16_has_adapters_in_float32(tmp_path: Path) -> None:
    trainer = build_trainer(tiny_lora(tmp_path, "model.dtype=bfloat16"))
    dtypes = {(p.requires_grad, p.dtype) for p in trainer.model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    trainer.train()
    assert trainer.state.global_step == 3


def test_the_overlay_trains_and_ranks_in_mixed_precision(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a GPU: a bfloat16 model, float32 adapters, and autocast to bfloat16."""
    precision = ["model.dtype=bfloat16", "training.bf16=true", "training.warmup_steps=0"]
    trainer = build_trainer(tiny_lora(tmp_path, *precision, "training.save_steps=3", "training.eval_steps=3"))
    trainer.train()
    assert not [message for message in caplog.messages if "WARNING" in message]
    evaluate.main([f"checkpoint={tmp_path / 'run'}"])
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    seen = next(log for log in trainer.state.log_history if "eval_ndcg" in log)
    assert metrics["ndcg"] == pytest.approx(seen["eval_ndcg"], abs=1e-6)
    ranked = Ranker.from_pretrained(tmp_path / "run").rank("query ba", ["bado", "ki", "kilu"])
    assert all(row.score < 0 for row in ranked)


def test_the_same_seed_gives_the_same_adapters() -> None:
    """Whatever was drawn before, which loading a model on one process alone can make differ."""
    models = []
    for draws, seed in ((0, 0), (3, 0), (0, 1)):
        model = tiny_model()
        torch.rand(draws)
        models.append(weights(add_lora(model, {"r": 2}, seed), "lora"))
    same, other = [[torch.equal(value, m[name]) for name, value in models[0].items()] for m in models[1:]]
    assert all(same)
    assert not all(other)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of 8 steps, saved at 4 and 8, and its trainer."""
    tmp_path = tmp_path_factory.mktemp("lora")
    steps = ["training.max_steps=8", "training.save_steps=4", "training.eval_steps=8", "training.learning_rate=0.05"]
    recipe = tiny_lora(tmp_path, *steps)
    return tmp_path, trained_run(recipe)


def test_a_checkpoint_holds_the_adapter_alone(trained: tuple[Path, Any]) -> None:
    tmp_path, trainer = trained
    checkpoint = tmp_path / "run" / "checkpoint-8"
    names = {path.name for path in checkpoint.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "recipe.yaml",
        "tokenizer.json",
        "optimizer.pt",
    } <= names
    assert not names & {"model.safetensors", "config.json", "pytorch_model.bin"}
    saved = load_file(checkpoint / "adapter_model.safetensors")
    own = {name.replace(".default.", "."): value for name, value in weights(trainer.model, "lora").items()}
    assert saved.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in saved.items())


def test_saved_adapters_are_trained_on_as_they_were_saved(trained: tuple[Path, Any]) -> None:
    """peft goes by what was saved, so settings that say something else are refused."""
    tmp_path, trainer = trained
    path = str(tmp_path / "run" / "checkpoint-8")

    def base() -> nn.Module:
        return build_model(tiny_lora(tmp_path), trainer.model.get_base_model().config)

    asked = {"r": 2, "target_modules": "all-linear"}
    loaded = load_lora(base(), asked, path)
    own = weights(trainer.model, "lora")
    assert all(torch.equal(value, own[name]) for name, value in weights(loaded, "lora").items())
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(own)
    with pytest.raises(ValueError, match=r"^lora.r=3 conflicts with model.adapter=.*checkpoint-8, .* saved with 2$"):
        load_lora(base(), asked | {"r": 3}, path)
    with pytest.raises(ValueError, match=r"^lora.target_modules=\['q_proj'\] conflicts with model.adapter=.*"):
        load_lora(base(), asked | {"target_modules": ["q_proj"]}, path)
    with pytest.raises(ValueError, match=r"^adapter .*/nowhere: "):
        load_lora(base(), asked, str(tmp_path / "nowhere"))


def experts() -> MixtralForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3}
    return MixtralForCausalLM(MixtralConfig(vocab_size=30, intermediate_size=24, num_hidden_layers=1, **shape))


@pytest.mark.parametrize(
    ("model", "lora"),
    [
        (
            partial(tiny_model, tie_word_embeddings=True),
            {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        ),
        (experts, {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}),
        (experts, {"target_modules": ["q_proj", "w1", "w2", "w3"]}),
    ],
    ids=["tied", "parameters", "names of before"],
)
def test_adapters_go_on_where_peft_rewrites_their_settings(
    model: Callable[[], PreTrainedModel], lora: dict[str, Any], tmp_path: Path
) -> None:
    """It adds the embeddings' full name, or puts parameters in the place of layers that transformers had before 5."""
    first = add_lora(model(), lora, seed=0)
    first.save_pretrained(tmp_path)
    again = load_lora(model(), lora, str(tmp_path))
    own = weights(first, "lora")
    assert len(own) > 2
    assert all(torch.equal(value, own[name]) for name, value in weights(again, "lora").items())
    with pytest.raises(ValueError, match=r"^lora.target_modules=\['v_proj'\] conflicts with model.adapter="):
        load_lora(model(), {"target_modules": ["v_proj"]}, str(tmp_path))


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"target_modules": ["q_proj", "v_porj"]}, "lora.target_modules: layer 'v_porj' .* Did you mean 'v_proj'"),
        ({"modules_to_save": ["lm_heda"]}, "lora.modules_to_save: layer 'lm_heda' .* Did you mean 'lm_head'"),
        ({"exclude_modules": ["k_porj"]}, "lora.exclude_modules: layer 'k_porj' .* Did you mean 'k_proj'"),
        ({"target_parameters": ["experts.w"]}, "lora.target_parameters: layer 'experts.w' does not exist"),
        ({"rank_pattern": {"layers.9.q_proj": 4}}, "lora.rank_pattern: layer 'layers.9.q_proj' does not exist"),
        ({"alpha_pattern": {"q_porj": 4}}, "lora.alpha_pattern: layer 'q_porj' .* Did you mean 'q_proj'"),
        ({"layers_to_transform": [0, 2]}, r"lora.layers_to_transform=\[0, 2\]: the model has no layer 2"),
        ({"trainable_token_indices": [5, 97]}, "lora: index 97 is out of bounds"),
        ({"layer_replication": [[0, 3]]}, "lora: index 2 is out of range"),
    ],
)
def test_a_layer_that_the_model_has_not_is_refused(lora: dict[str, Any], said: str) -> None:
    """peft would adapt the others, and say nothing or warn."""
    with pytest.raises(ValueError, match=said):
        add_lora(tiny_model(), {"target_modules": ["q_proj"], "r": 2} | lora, seed=0)


MOE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}


def test_a_layer_that_gives_more_than_its_product_is_refused() -> None:
    """Llama 4's router is a linear layer to peft, which would fail in the first forward pass."""
    own = {"intermediate_size": 24, "intermediate_size_mlp": 24, "num_local_experts": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama4_text", vocab_size=30, **MOE, **own))
    said = r"lora adapts model.layers.0.feed_forward.router, a Llama4Router, .* set lora.exclude_modules=\[router\]"
    with pytest.raises(ValueError, match=said):
        add_lora(model, {"target_modules": "all-linear"}, seed=0)


def test_falcons_linear_layers_which_are_of_its_own_take_adapters() -> None:
    own = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", vocab_size=30, **own))
    assert len(weights(add_lora(model, {"target_modules": "all-linear"}, seed=0), "lora")) == 2 * 4


def test_adapters_that_peft_would_not_find_again_are_refused() -> None:
    """It takes their names for those of an earlier transformers, and a resumed run would begin them anew."""
    own = {"intermediate_size": 24, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    own |= {"shared_expert_intermediate_size": 8, "mlp_layer_types": ["sparse"], "num_attention_heads_per_layer": [2]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("laguna", vocab_size=30, **MOE, **own))
    left_out = "down_proj,gate_proj,up_proj"
    with pytest.raises(ValueError, match=rf"^lora: peft cannot load .* lora.exclude_modules=\[{left_out}\]"):
        add_lora(model, {"target_modules": "all-linear"}, seed=0)


def test_names_and_patterns_of_layers_pass() -> None:
    lora = {
        "target_modules": ["q_proj", "layers.1.mlp.up_proj"],
        "modules_to_save": ["norm"],
        "exclude_modules": ["layers.0.self_attn.q_proj"],
        "rank_pattern": {r"layers\.[01]\.mlp\.up_proj": 3},
        "layers_to_transform": 1,
    }
    own = weights(add_lora(tiny_model(), lora | {"r": 2}, seed=0), "lora")
    assert sorted(name.partition("layers.")[2] for name in own if "lora_A" in name) == [
        "1.mlp.up_proj.lora_A.default.weight",
        "1.self_attn.q_proj.lora_A.default.weight",
    ]


def test_replicated_layers_are_those_of_the_model_on_disk(tmp_path: Path) -> None:
    """The memory estimate replicates them first, in a model of its own."""
    base = train_tiny(tmp_path / "base", "model.config.num_hidden_layers=2") / "checkpoint-3"
    own = ["model.from_scratch=false", f"model.name={base}", f"tokenizer.name={base}", "tokenizer.vocab_size=null"]
    layers = ["model.config.num_hidden_layers=2", "lora.layer_replication=[[0,2],[1,2]]"]
    model = build_trainer(tiny_lora(tmp_path, *own, *layers)).model.get_base_model()
    assert [layer.self_attn.q_proj.base_layer.weight.data_ptr() for layer in model.model.layers[1:]] == [
        model.model.layers[1].self_attn.q_proj.base_layer.weight.data_ptr()
    ] * 2


@pytest.mark.parametrize(
    "lora", ["modules_to_save=[lm_head]", "trainable_token_indices=[5]", "target_modules=[embed_tokens]"]
)
def test_adapters_of_tied_embeddings_are_refused_on_shards(
    lora: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate 1.15 ties the weights again after it has split them, and fails on peft's wrappers."""
    build_trainer(tiny_lora(tmp_path, f"lora.{lora}"))
    monkeypatch.setattr("stoical.training.build.sharding", lambda training: "FSDP2")
    with pytest.raises(ValueError, match=r"^lora adapts embeddings or a head .* FSDP2 cannot split; use DDP"):
        build_trainer(tiny_lora(tmp_path, f"lora.{lora}"))
    build_trainer(tiny_lora(tmp_path))
    build_trainer(tiny_lora(tmp_path, f"lora.{lora}", "model.config.tie_word_embeddings=false"))


def test_evaluate_finds_what_the_run_saw_with_no_other_flag(trained: tuple[Path, Any]) -> None:
    tmp_path, trainer = trained
    evaluate.main([f"checkpoint={tmp_path / 'run'}"])
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    seen = [log for log in trainer.state.log_history if "eval_ndcg" in log][-1]
    assert seen["step"] == 8
    names = [name for name in seen if name.startswith("eval_") and name != "eval_num_queries"]
    assert len(names) > 5
    for name in names:
        assert metrics[name.removeprefix("eval_")] == seen[name], name


def test_the_ranker_uses_the_adapter(trained: tuple[Path, Any]) -> None:
    tmp_path, _ = trained
    ranker = Ranker.from_pretrained(tmp_path / "run")
    assert isinstance(ranker.model, PeftModel)
    docs = ["bado", "ki", "kilu"]
    scores = {row.docid: row.score for row in ranker.rank("query ba", docs)}
    with ranker.model.disable_adapter():
        without = {row.docid: row.score for row in ranker.rank("query ba", docs)}
    assert max(abs(scores[docid] - without[docid]) for docid in docs) > 1e-2


def test_layouts_agree_through_an_adapter(trained: tuple[Path, Any]) -> None:
    _, trainer = trained
    model = trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(3)])["batch"]
    model.zero_grad()
    found = {}
    for layout in ("pointwise", "sequence", "cache"):
        logprobs = node_logprobs(model, batch, layout).logprobs
        (logprobs * batch.node_weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        model.zero_grad()
        found[layout] = logprobs.detach(), gradient
    assert found["pointwise"][1].norm() > 1e-3
    for layout in ("sequence", "cache"):
        torch.testing.assert_close(found[layout][0], found["pointwise"][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(found[layout][1], found["pointwise"][1], atol=1e-5, rtol=1e-4)


def test_resume_equals_going_through(trained: tuple[Path, Any]) -> None:
    """Dropout on: the generators' states have to come back too."""
    tmp_path, through = trained
    shutil.copytree(tmp_path / "run" / "checkpoint-4", tmp_path / "stopped" / "checkpoint-4")
    steps = ["training.max_steps=8", "training.save_steps=4", "training.eval_steps=8", "training.learning_rate=0.05"]
    recipe = tiny_lora(tmp_path, *steps, "resume=auto", output="stopped")
    resumed = build_trainer(recipe)
    resumed.train(resume_from_checkpoint=str(resume_from(recipe)))
    assert resumed.state.global_step == 8
    assert through.model.peft_config["default"].lora_dropout == 0.05
    for name, value in weights(through.model, "lora").items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
