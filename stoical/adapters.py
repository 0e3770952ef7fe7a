"""LoRA adapters by peft over a model that stays as it is, whole or quantized by bitsandbytes (QLoRA)."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from stoical.fields import check_fields

FIXED = {  # fields of LoraConfig that follow from the model, or that a checkpoint or a trie could not be read with
    "task_type": "stoical trains causal language models",
    "peft_type": "this section is LoRA",
    "auto_mapping": "peft fills it in",
    "peft_version": "peft fills it in",
    "base_model_name_or_path": "model.name says it",
    "revision": "model.name says it",
    "inference_mode": "train.py trains and evaluate.py does not",
    "alora_invocation_tokens": "it looks for tokens in a row of one document, and a row here holds a trie",
}
INITIAL_WEIGHTS = (True, False, "gaussian", "orthogonal")


def check_adapters(lora: Mapping[str, Any] | None, quantization: Mapping[str, Any] | None, from_scratch: bool) -> None:
    """Raise `ValueError` where the sections `lora` and `quantization` are not what peft and transformers take."""
    if lora is not None:
        _check_lora(lora)
    if quantization is None:
        return
    if lora is None:
        raise ValueError("quantization needs lora: quantized weights cannot be trained, adapters over them can")
    if from_scratch:
        raise ValueError("quantization conflicts with model.from_scratch=true: weights are quantized when loaded")
    _check_quantization(quantization)


def _check_lora(lora: Mapping[str, Any]) -> None:
    for key in lora:
        if key in FIXED:
            raise ValueError(f"lora.{key} is not for a recipe to set: {FIXED[key]}")
    hints = typing.get_type_hints(LoraConfig)
    check_fields("lora", lora, {f.name: hints[f.name] for f in dataclasses.fields(LoraConfig)}, "peft.LoraConfig")
    start = lora.get("init_lora_weights", True)
    if start not in INITIAL_WEIGHTS:
        raise ValueError(
            f"lora.init_lora_weights={start} changes the model's own weights at the start, and a checkpoint holds the "
            "adapter alone; use true, false, gaussian or orthogonal"
        )
    if lora.get("r", 1) < 1:
        raise ValueError(f"lora.r={lora['r']} must be at least 1")


def _check_quantization(quantization: Mapping[str, Any]) -> None:
    signature = inspect.signature(BitsAndBytesConfig).parameters
    defaults = {name: parameter.default for name, parameter in signature.items() if name != "kwargs"}
    types_of = {name: str | list | None if value is None else type(value) for name, value in defaults.items()}
    check_fields("quantization", quantization, types_of, "transformers.BitsAndBytesConfig")
    try:
        config = BitsAndBytesConfig(**quantization)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"quantization: {error}") from error
    if not (config.load_in_4bit or config.load_in_8bit):
        raise ValueError("quantization has no effect without load_in_4bit=true or load_in_8bit=true")
    if config.load_in_4bit and config.bnb_4bit_quant_type not in ("nf4", "fp4"):
        raise ValueError(f"quantization.bnb_4bit_quant_type={config.bnb_4bit_quant_type} must be nf4 or fp4")


def quantization_config(quantization: Mapping[str, Any]) -> BitsAndBytesConfig:
    """What `from_pretrained` wants. Raises `ValueError` where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("quantization needs bitsandbytes, which is not installed: pip install bitsandbytes")
    return BitsAndBytesConfig(**quantization)


def keep_gradients(model: nn.Module) -> None:
    """Let a 4-bit model train on a CPU too.

    bitsandbytes (0.50) packs weights anew for a CPU with avx512_bf16 at the first forward in eval mode, and from then
    on its kernel passes no gradient back, with nothing said. Without the packing it does.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def add_lora(model: PreTrainedModel, lora: Mapping[str, Any], seed: int) -> PeftModel:
    """The model with new float32 adapters, all else frozen. Raises `ValueError` where peft cannot place them.

    The same `seed` gives the same adapters: on every process, and when a run starts again.
    """
    torch.manual_seed(seed)
    try:
        wrapped: PeftModel = get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, **lora))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"lora: {error}") from error
    return wrapped


def load_lora(model: PreTrainedModel, lora: Mapping[str, Any], path: str) -> PeftModel:
    """The model with the adapters saved at `path`, trainable.

    Raises `ValueError` where they cannot be loaded, and where they are not what `lora` asks for, since peft goes by
    what was saved.
    """
    try:
        wrapped = PeftModel.from_pretrained(model, path, is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"model.adapter={path}: {str(error).splitlines()[0]}") from error
    asked, saved = LoraConfig(task_type=TaskType.CAUSAL_LM, **lora), wrapped.active_peft_config
    for key in lora:
        ours, theirs = getattr(asked, key), getattr(saved, key)
        if ours != theirs and ours != "all-linear":  # peft saves the layers that this stood for
            raise ValueError(f"lora.{key}={ours} conflicts with model.adapter={path}, which was saved with {theirs}")
    return wrapped


def describe_trainable(model: nn.Module) -> str:
    """How many parameters train, and what the others are."""
    assert isinstance(model, PeftModel)
    trainable, total = model.get_nb_trainable_parameters()
    return f"LoRA: {trainable:,} of {total:,} parameters train ({100 * trainable / total:.2g}%)"
