"""A model that reads pictures as well: its text model trains as others do, and the rest stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from stoical.config.loading import load_recipe
from stoical.encoding.tokenization import train_bpe
from stoical.models.adapters import add_lora
from stoical.models.text_part import freeze_other_parts, other_parts
from stoical.preferences.dpo import run_dpo
from stoical.preferences.settings import DPO_TRAINING, DPOSettings
from stoical.preferences.start import load_start
from tests.support.small_data import write_dataset
from tests.support.tiny_model import tiny_model
from tests.support.training import trained_run

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {**SHAPE, "vocab_size": 300, "num_key_value_heads": 2, "head_dim": 8}
PICTURES = {**SHAPE, "image_size": 28, "patch_size": 14}
PARTS = ["model.vision_tower", "model.multi_modal_projector"]


def sees_pictures() -> PreTrainedModel:
    """Gemma 3 as all sizes but two are published: text, a vision tower whose layers have the same names, a bridge."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("gemma3", text_config=TEXT, vision_config=PICTURES, mm_tokens_per_image=4)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def test_the_parts_that_text_does_not_run_through() -> None:
    model = sees_pictures()
    assert sorted(other_parts(model)) == sorted(PARTS)
    assert other_parts(tiny_model()) == []
    freeze_other_parts(model)
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == (not name.startswith(tuple(PARTS))), name


@pytest.mark.parametrize("layers", ["all-linear", ["q_proj"]])
def test_adapters_are_on_the_text_model_alone(layers: object) -> None:
    def adapted(**more: object) -> set[str]:
        wrapped = add_lora(sees_pictures(), {"r": 2, "target_modules": layers, **more}, seed=0)
        names = [name.removeprefix("base_model.model.") for name, p in wrapped.named_parameters() if p.requires_grad]
        return {".".join(name.split(".")[:2]) for name in names}

    assert adapted() == {"model.language_model"}
    assert adapted(exclude_modules=["k_proj"]) >= {"model.language_model", "model.vision_tower"}  # as it says


def test_it_trains_from_the_first_step_to_preferences(tmp_path: Path) -> None:
    """Training stops where no gradient reaches a tensor that is to train."""
    base, data = tmp_path / "base", tmp_path / "data"
    sees_pictures().save_pretrained(base)
    train_bpe(["a b c"], 300).save_pretrained(base)
    write_dataset(data)
    own = [f"data.path={data}", f"model.name={base}", f"tokenizer.name={base}", f"output={tmp_path / 'run'}"]
    own += ["optimizer=trainer", "prompt.template=compact", "prompt.max_length=256", "global_batch_size=8"]
    section = ["optim=adamw_torch", "bf16=false", "max_steps=3", "per_device_train_batch_size=8", "use_cpu=true"]
    trained_run(load_recipe("wordnet_alpha2", *own, *(f"training.{each}" for each in section)))
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "run" / "checkpoint-3"))
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == [name for name in before if name.startswith("language_model")]
    pytest.importorskip("trl", reason="needs pip install 'stoical[preferences]'")
    few = {"training.max_steps": "3"}
    start, recipe = load_start(str(tmp_path / "run"), str(tmp_path / "dpo"), few, DPO_TRAINING)
    run_dpo(recipe, start, DPOSettings(num_queries=8))
    assert (tmp_path / "dpo" / "checkpoint-3").is_dir()
