"""LoRA: adapters over a frozen model, trained, saved alone, resumed, evaluated and ranked with."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from stoical.build.model import build_model
from stoical.commands import evaluate
from stoical.models.adapters import add_lora, load_lora
from stoical.models.forward import node_logprobs
from stoical.ranker import Ranker
from stoical.runs.resume import resume_from
from stoical.training.build import build_trainer
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_lora
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
    with pytest.raises(ValueError, match=r"^adapter .*/nowhere: "):
        load_lora(base(), asked, str(tmp_path / "nowhere"))


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
