"""QLoRA: adapters over a model in 4 bits. Where bitsandbytes is installed: it has kernels for the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from stoical.commands import export
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.ranker import Ranker
from stoical.training.build import build_trainer
from tests.support.small_data import TINY
from tests.support.tiny_run import train_tiny

WIDE = ["model.config.hidden_size=64", "model.config.intermediate_size=128"]  # its CPU kernels want 64s
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (pip install bitsandbytes)",
)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model on disk, to be quantized as it is loaded."""
    return train_tiny(tmp_path_factory.mktemp("tuned"), *WIDE)


def make(tuned: Path, output: Path, *extra: str) -> Recipe:
    basic = ["recipe=wordnet_alpha2,small,qlora", f"data.path={tuned.parent / 'data'}", f"output={output}", *TINY]
    base = ["model.from_scratch=false", f"model.name={tuned / 'checkpoint-3'}"]
    tokenizer = [f"tokenizer.name={tuned / 'checkpoint-3'}", "tokenizer.vocab_size=null"]
    given = {word.partition("=")[0]: word for word in [*basic, *WIDE, *base, *tokenizer, *extra]}
    return load_recipe(*given.values())


def test_without_bitsandbytes_the_error_says_what_to_install(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantization needs bitsandbytes, .* pip install 'stoical\[quantize\]'"):
        build_trainer(make(tuned, tmp_path / "run"))


@needs_bitsandbytes
def test_adapters_train_over_four_bits_rank_and_merge_without_them(tuned: Path, tmp_path: Path) -> None:
    trainer = build_trainer(make(tuned, tmp_path / "run", "training.save_steps=3", "training.learning_rate=0.05"))
    parameters = dict(trainer.model.named_parameters())
    four_bits = {name: p.clone() for name, p in parameters.items() if p.dtype == torch.uint8}
    assert len(four_bits) == 7, "the linear layers of the one decoder layer"
    assert {p.dtype for p in parameters.values() if p.requires_grad} == {torch.float32}
    before = {name: p.clone() for name, p in parameters.items() if p.requires_grad}
    trainer.train()
    assert all(torch.equal(p, parameters[name]) for name, p in four_bits.items())
    assert not any(torch.equal(p, parameters[name]) for name, p in before.items())
    assert not (tmp_path / "run" / "checkpoint-3" / "model.safetensors").exists()
    docs = ["bado", "ki", "kilu"]
    own = Ranker.from_pretrained(tmp_path / "run")
    assert any(p.dtype == torch.uint8 for p in own.model.parameters())
    scores = {row.docid: row.score for row in own.rank("query ba", docs)}
    with own.model.disable_adapter():
        without = {row.docid: row.score for row in own.rank("query ba", docs)}
    assert max(abs(scores[docid] - without[docid]) for docid in docs) > 1e-2
    export.main([f"checkpoint={tmp_path / 'run'}", f"output={tmp_path / 'merged'}"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    base = AutoModelForCausalLM.from_pretrained(tuned / "checkpoint-3", dtype=torch.bfloat16)
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
    product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = base.model.layers[0].mlp.up_proj.weight.float() + product
    torch.testing.assert_close(merged.model.layers[0].mlp.up_proj.weight, expected, atol=1e-7, rtol=0)


@needs_bitsandbytes
def test_a_soft_prompt_trains_before_four_bits(tuned: Path, tmp_path: Path) -> None:
    own = ["recipe=wordnet_alpha2,small,qlora,soft_prompt", "lora=null", "training.save_steps=3"]
    trainer = build_trainer(make(tuned, tmp_path / "run", *own))
    parameters = dict(trainer.model.named_parameters())
    before = {name: p.clone() for name, p in parameters.items()}
    assert sum(p.dtype == torch.uint8 for p in before.values()) == 7
    trainer.train()
    moved = {name for name, p in before.items() if not torch.equal(p, parameters[name])}
    assert moved == {name for name, p in parameters.items() if p.requires_grad}
    assert len(moved) == 1
    assert all(row.score < 0 for row in Ranker.from_pretrained(tmp_path / "run").rank("query ba", ["bado", "ki"]))
