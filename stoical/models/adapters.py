"""LoRA adapters by peft over a model that stays as it is, whole or quantized by bitsandbytes (QLoRA)."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel


def quantization_config(quantization: Mapping[str, Any]) -> BitsAndBytesConfig:
    """What `from_pretrained` wants. Raises `ValueError` for settings that transformers refuses, or no bitsandbytes."""
    try:
        config = BitsAndBytesConfig(**quantization)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"quantization: {error}") from error
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("quantization needs bitsandbytes, which is not installed: pip install 'stoical[quantize]'")
    return config


def keep_gradients(model: nn.Module) -> None:
    """Let a 4-bit model train on a CPU too.

    bitsandbytes (0.50) repacks weights for a CPU with avx512_bf16 at the first forward in eval mode, and from then
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
    wrapped = read_adapter(model, path, trainable=True)
    asked, saved = LoraConfig(task_type=TaskType.CAUSAL_LM, **lora), wrapped.active_peft_config
    for key in lora:
        ours, theirs = getattr(asked, key), getattr(saved, key)
        if ours != theirs and ours != "all-linear":  # peft saves the layers that this stood for
            raise ValueError(f"lora.{key}={ours} conflicts with model.adapter={path}, which was saved with {theirs}")
    return wrapped


def read_adapter(model: nn.Module, path: str, trainable: bool) -> PeftModel:
    """The model with what peft saved at `path`: LoRA, or a soft prompt.

    Raises `ValueError` where that cannot be read, or where tensors are missing: peft would leave them as they began.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            wrapped: PeftModel = PeftModel.from_pretrained(model, path, is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError, UserWarning) as error:
        raise ValueError(f"adapter {path}: {(str(error).splitlines() or [type(error).__name__])[0][:300]}") from error
    return wrapped


def describe_trainable(model: nn.Module) -> str:
    """How many parameters train, and what the others are."""
    assert isinstance(model, PeftModel)
    trainable, total = model.get_nb_trainable_parameters()
    return f"LoRA: {trainable:,} of {total:,} parameters train ({100 * trainable / total:.2g}%)"
