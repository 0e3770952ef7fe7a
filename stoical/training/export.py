"""A trained model, whole: adapters merged into the weights below them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import OmegaConf
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from stoical.build.encoder import build_tokenizer
from stoical.build.model import load_model
from stoical.common.files import check_writable
from stoical.config.recipe import DType, ModelSettings
from stoical.runs.find import load_checkpoint


def export(checkpoint: Path, output: Path, dtype: DType = "float32") -> None:
    """Write the checkpoint's whole model, its tokenizer and a recipe.yaml that points at them into `output`.

    Raises `ValueError` where `output` is not empty or cannot be written to, and for adapters that cannot be merged.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"output={output} exists already; nothing is overwritten: give another directory")
    check_writable(output)
    recipe, adapter = load_checkpoint(checkpoint, {})
    recipe.quantization = None
    tokenizer = build_tokenizer(recipe)
    model = merge(load_model(recipe, tokenizer, adapter).float())
    model.to(dtype=getattr(torch, dtype)).save_pretrained(output)
    tokenizer.save_pretrained(output)
    recipe.model = ModelSettings(str(output), attn_implementation=recipe.model.attn_implementation, dtype=dtype)
    recipe.tokenizer = replace(recipe.tokenizer, name=str(output), vocab_size=None)
    recipe.lora, recipe.resume, recipe.output = None, None, str(output)
    (output / "recipe.yaml").write_text(OmegaConf.to_yaml(recipe))


def merge(model: nn.Module) -> PreTrainedModel:
    """The model with its adapters added to its weights, or as it is where it has none."""
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError("a soft prompt is not part of any weight, so that it cannot be merged")
        model = model.merge_and_unload()
    assert isinstance(model, PreTrainedModel)
    return model
