"""The model inside of whatever trains it on several devices."""

from __future__ import annotations

from typing import Any

from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel


def unwrapped(model: nn.Module) -> Any:
    """The model inside of DDP, FSDP, DeepSpeed or torch.compile; an adapter of peft's stays around its own.

    accelerate's search for wrappers takes 0.1 ms, longer in a deep model, and there are several a forward pass: a model
    that cannot be a wrapper is not searched.
    """
    return model if isinstance(model, PreTrainedModel | PeftModel) else extract_model_from_parallel(model)
