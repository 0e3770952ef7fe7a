"""Write a checkpoint's whole model: adapters merged into the weights below them, loaded again and compared."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from stoical.build.encoder import build_tokenizer
from stoical.build.model import check_loadable, load_model
from stoical.common.files import check_writable, staged, writing
from stoical.config.recipe import DType, ModelSettings, Recipe
from stoical.config.values import recipe_yaml
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.prompts import TEMPLATE_FILE, load_template, template_yaml
from stoical.encoding.tokenization import save_tokenizer
from stoical.models.forward import node_logprobs
from stoical.models.layouts import Layout
from stoical.models.self_check import probe_batch
from stoical.runs.find import load_checkpoint

LIMIT = {"float32": 1e-3, "bfloat16": 0.5}  # nats that the written model may differ by, as rounding explains


def export(checkpoint: Path, output: Path, dtype: DType = "float32") -> float:
    """Write the checkpoint's whole model, its tokenizer and a recipe.yaml that points at them into `output`.

    The written model is loaded again and compared with the checkpoint's on made-up queries; the result is the largest
    difference of a log-probability, in nats. Raises `ValueError` where `output` is not empty or cannot be written to,
    for adapters that cannot be merged, and where the difference is more than rounding explains; then nothing is left.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"output={output} exists already; nothing is overwritten: give another directory")
    check_writable(output)
    recipe, adapter = load_checkpoint(checkpoint, {})
    recipe.quantization = None
    template = template_yaml(load_template(recipe.prompt.template))
    tokenizer = build_tokenizer(recipe)
    batch = probe_batch(len(tokenizer), recipe.prompt.max_length)
    model = load_model(recipe, tokenizer, adapter).float().eval()
    expected = _logprobs(model, batch, recipe.layout)
    with staged(output) as draft:
        whole = merge(model).to(dtype=getattr(torch, dtype))
        check_loadable(recipe, whole)
        with writing(output):
            whole.save_pretrained(draft)
            save_tokenizer(tokenizer, draft)
        written = _pointed_at(recipe, draft, dtype)
        found = _logprobs(load_model(written, tokenizer).float().eval(), batch, written.layout)
        difference = float((found - expected).abs().max())
        if not math.isfinite(difference):
            raise ValueError(f"{checkpoint} gives log-probabilities that are not finite; its weights are broken")
        if not difference < LIMIT[dtype]:
            raise ValueError(
                f"the written model's log-probabilities differ from {checkpoint}'s by {difference:.1e} nats, over the "
                f"{LIMIT[dtype]:g} that {dtype} explains; nothing was kept"
            )
        (draft / TEMPLATE_FILE).write_text(template, encoding="utf-8")
        (draft / "recipe.yaml").write_text(recipe_yaml(_pointed_at(recipe, output, dtype)), encoding="utf-8")
    return difference


@torch.no_grad()
def _logprobs(model: nn.Module, batch: PackedBatch, layout: Layout) -> Tensor:
    return node_logprobs(model, batch, layout).logprobs


def _pointed_at(recipe: Recipe, directory: Path, dtype: DType) -> Recipe:
    """The recipe of the whole model in `directory`."""
    model = ModelSettings(str(directory), attn_implementation=recipe.model.attn_implementation, dtype=dtype)
    tokenizer = replace(recipe.tokenizer, name=str(directory), vocab_size=None)
    return replace(recipe, model=model, tokenizer=tokenizer, lora=None, resume=None, output=str(directory))


def merge(model: nn.Module) -> PreTrainedModel:
    """The model with its adapters added to its weights, or as it is where it has none."""
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError("a soft prompt is not part of any weight, so that it cannot be merged")
        if getattr(model.active_peft_config, "layer_replication", None):
            raise ValueError("lora.layer_replication has layers share weights, into which no adapter can be merged")
        _untie(model)
        try:
            model = model.merge_and_unload()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"these adapters cannot be merged: {str(error).splitlines()[0]}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def _untie(model: PeftModel) -> None:
    """Give the head weights of its own where it shares the embeddings' and an adapter changes one of the two.

    Merged into the shared weights, the adapter would change both.
    """
    base = model.get_base_model()
    head, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    layers = [getattr(module, "base_layer", module) for module in (head, embeddings)]
    adapted = layers[0] is not head or layers[1] is not embeddings
    if adapted and layers[0].weight is layers[1].weight:
        layers[0].weight = nn.Parameter(layers[0].weight.detach().clone())
        base.config.tie_word_embeddings = False
