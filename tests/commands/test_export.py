"""stoical/export.py: the written model ranks as the checkpoint does, and stands alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from stoical.commands import evaluate, export
from stoical.ranker import Ranker
from stoical.runs.find import load_checkpoint
from stoical.training.build import build_trainer
from stoical.training.export import merge
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_lora
from tests.support.tiny_run import train_tiny

DOCS = ["dokilu", "ba", "bado", "kilu", "no", "nora"]


def scores(directory: Path) -> dict[str, float]:
    return {row.docid: row.score for row in Ranker.from_pretrained(directory).rank("query ba", DOCS)}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of adapters with steps large enough to matter."""
    tmp_path = tmp_path_factory.mktemp("adapted")
    steps = ["training.save_steps=3", "training.warmup_steps=0", "training.learning_rate=0.05"]
    build_trainer(tiny_lora(tmp_path, *steps)).train()
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("whole"))


def test_merged_scores_are_the_adapters(adapted: Path, tmp_path: Path) -> None:
    export.main([f"checkpoint={adapted}", f"output={tmp_path / 'merged'}"])
    ranker = Ranker.from_pretrained(tmp_path / "merged")
    assert not isinstance(ranker.model, PeftModel)
    expected, found = scores(adapted), scores(tmp_path / "merged")
    for docid, score in expected.items():
        assert found[docid] == pytest.approx(score, abs=1e-5)
    base = Ranker.from_pretrained(adapted)
    assert isinstance(base.model, PeftModel)
    with base.model.disable_adapter():
        assert base.rank("query ba", DOCS)[0].score != pytest.approx(max(found.values()), abs=1e-3)


def test_the_result_stands_alone(adapted: Path, tmp_path: Path) -> None:
    """transformers loads it, and so does evaluate.py with no other flag; its results go beside it."""
    merged = tmp_path / "merged"
    export.main([f"checkpoint={adapted / 'checkpoint-3'}", f"output={merged}"])
    assert not list(merged.glob("adapter*"))
    loaded = AutoModelForCausalLM.from_pretrained(merged)
    again = Ranker.from_pretrained(merged).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in loaded.state_dict().items())
    evaluate.main([f"checkpoint={merged}"])
    evaluate.main([f"checkpoint={adapted}"])
    after, before = (json.loads((run / "eval" / "metrics.json").read_text()) for run in (merged, adapted))
    assert after["ndcg"] == pytest.approx(before["ndcg"], abs=1e-6)
    recipe, adapter = load_checkpoint(merged, {})
    assert (recipe.lora, recipe.quantization, adapter) == (None, None, None)
    assert recipe.output == str(merged)


def test_the_result_keeps_the_prompts_template(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    export.main([f"checkpoint={run}", f"output={tmp_path / 'out'}"])
    found = scores(tmp_path / "out")
    shutil.rmtree(run)
    assert scores(tmp_path / "out") == found


@pytest.mark.parametrize("kind", ["adapted", "whole"])
def test_weights_are_cast(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    for dtype in ("float32", "bfloat16"):
        export.main([f"checkpoint={run}", f"output={tmp_path / dtype}", f"dtype={dtype}"])
    full, half = (AutoModelForCausalLM.from_pretrained(tmp_path / dtype) for dtype in ("float32", "bfloat16"))
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for name, value in full.state_dict().items():
        assert torch.equal(value.bfloat16(), half.state_dict()[name])
    ranker = Ranker.from_pretrained(tmp_path / "bfloat16")
    assert {p.dtype for p in ranker.model.parameters()} == {torch.bfloat16}


def test_a_whole_model_is_copied(whole: Path, tmp_path: Path) -> None:
    export.main([f"checkpoint={whole}", f"output={tmp_path / 'copy'}"])
    assert scores(tmp_path / "copy") == scores(whole)


def test_a_bfloat16_base_is_merged_in_float32(tmp_path: Path) -> None:
    """What is added is not rounded away: it is the base's own bfloat16 values plus the float32 product."""
    settings = ["training.save_steps=3", "training.warmup_steps=0", "model.dtype=bfloat16"]
    trainer = build_trainer(tiny_lora(tmp_path, *settings, "training.learning_rate=1e-3"))
    trainer.train()
    export.main([f"checkpoint={tmp_path / 'run'}", f"output={tmp_path / 'merged'}"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    layer = trainer.model.base_model.model.model.layers[0].self_attn.q_proj
    product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = layer.base_layer.weight.float() + product
    torch.testing.assert_close(merged.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-8, rtol=0)
    assert not torch.equal(expected, expected.bfloat16().float()), "or bfloat16 would have done"


def test_nothing_is_overwritten(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output=.*there exists already; nothing is overwritten"):
        export.main([f"checkpoint={whole}", f"output={tmp_path / 'there'}"])
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="exists already"):
        export.main([f"checkpoint={whole}", f"output={tmp_path / 'there' / 'notes.txt'}"])


BAD = {
    "no output": (["checkpoint=x"], "give output=, the directory to write"),
    "another setting": (["checkpoint=x", "output=y", "seed=1"], "option 'seed' does not exist"),
    "another type": (
        ["checkpoint=x", "output=y", "dtype=int8"],
        "dtype: Invalid value 'int8', expected one of ['float32', 'bfloat16']",
    ),
    "no checkpoint": (["checkpoint=/nowhere", "output=y"], "checkpoint=/nowhere: no such directory"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_told(case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
        export.main(arguments)
    assert message in str(caught.value)


def test_a_soft_prompt_cannot_be_merged(model: torch.nn.Module) -> None:
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="a soft prompt is not part of any weight"):
        merge(prompted)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora_bias": True}, "these adapters cannot be merged: .*lora_bias=True"),
        ({"layer_replication": [[0, 2], [0, 1]]}, "lora.layer_replication has layers share weights"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(settings: dict[str, Any], said: str) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], **settings)
    with pytest.raises(ValueError, match=said):
        merge(get_peft_model(tiny_model(), config))
