"""Write a trained model whole: adapters merged into the model below them, weights in one type.

  python -m stoical.export checkpoint=DIR output=DIR [dtype=float32|bfloat16]

checkpoint is a run (its last checkpoint is taken) or a checkpoint. The result loads with
`AutoModelForCausalLM.from_pretrained`, and as a checkpoint of stoical's own commands. Adapters are merged in float32,
never onto quantized weights: those of a quantized model are loaded whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import torch
from omegaconf import OmegaConf
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from stoical.build import build_tokenizer, load_model
from stoical.checkpoints import find_checkpoint, load_checkpoint
from stoical.cli import run
from stoical.config import split_arguments
from stoical.run_dir import check_writable
from stoical.settings import DType, ModelSettings


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


def main(arguments: Sequence[str]) -> None:
    """The command line of the module's docstring."""
    values = split_arguments(arguments)
    unknown = set(values) - {"checkpoint", "output", "dtype"}
    if unknown or not {"checkpoint", "output"} <= set(values):
        found = f", and not {min(unknown)}" if unknown else ""
        raise ValueError(f"give checkpoint=DIR (a run or a checkpoint) and output=DIR, and dtype= if wanted{found}")
    dtype = values.get("dtype", "float32")
    if dtype not in get_args(DType):
        raise ValueError(f"dtype={dtype} must be one of {', '.join(get_args(DType))}")
    checkpoint, output = find_checkpoint(values["checkpoint"]), Path(values["output"])
    export(checkpoint, output, cast("DType", dtype))
    print(f"{checkpoint} written whole to {output}; evaluate with: python evaluate.py checkpoint={output}")


if __name__ == "__main__":
    run(main, __doc__ or "", recipes=False)
