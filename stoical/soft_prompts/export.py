"""Prompts as plain peft checkpoints, read back and made to write by peft alone.

Dimension letters: n vectors of a prompt, H hidden size.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig, TaskType
from peft.utils import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor

from stoical.common.files import json_object, writing
from stoical.decoding.sampling import up_to
from stoical.models.adapters import check_weights, read_adapter
from stoical.soft_prompts.decoders import generation_config
from stoical.soft_prompts.frozen import Frozen
from stoical.soft_prompts.settings import check_saved

WEIGHT = "prompt_embeddings"
FACTS = "soft_prompt.json"


def save_prompt(frozen: Frozen, prompt: Tensor, directory: Path, facts: dict[str, Any]) -> None:
    """Write a prompt [n, H] as `PeftModel.save_pretrained` would, and `facts` about it beside."""
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=frozen.model.config.name_or_path,
        num_virtual_tokens=len(prompt),
        token_dim=prompt.shape[1],
        num_transformer_submodules=1,
        num_attention_heads=getattr(frozen.model.config.get_text_config(), "num_attention_heads", None),
        num_layers=getattr(frozen.model.config.get_text_config(), "num_hidden_layers", None),
        inference_mode=True,
    )
    with writing(directory):
        directory.mkdir(parents=True)
        config.save_pretrained(str(directory))
        save_file({WEIGHT: prompt.detach().float().cpu().contiguous()}, directory / "adapter_model.safetensors")
        (directory / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def peft_writes(frozen: Frozen, directory: Path, steps: int) -> list[int]:
    """The tokens that `PeftModel.from_pretrained(...).generate` writes greedily, up to EOS and with it."""
    wrapped = read_adapter(frozen.model, str(directory), trainable=False)
    start = torch.tensor([[frozen.start]], device=frozen.model.device)
    config = generation_config(frozen, steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Position ids are not supported")  # peft's own: it drops them
        found = wrapped.generate(input_ids=start, attention_mask=torch.ones_like(start), generation_config=config)
    return up_to(found[0, 1:].tolist(), frozen.eos)


def read_prompt(frozen: Frozen, directory: Path, vectors: int) -> Tensor:
    """[n, H] the prompt in a directory that peft saved, float32.

    Raises `ValueError` where there is none, where it is damaged, of another base model, or of another shape.
    """
    check_saved(directory)
    config, base = json_object(directory / "adapter_config.json"), frozen.model.config.name_or_path
    if config.get("peft_type") != "PROMPT_TUNING":
        raise ValueError(f"init={directory} holds {config.get('peft_type')}, not a prompt of prompt tuning")
    if config.get("base_model_name_or_path") != base:
        raise ValueError(
            f"init={directory} was made for the model {config.get('base_model_name_or_path')}, and model.name={base}: "
            "a prompt means nothing to another model"
        )
    check_weights(directory)
    try:
        prompt = load_peft_weights(str(directory), device="cpu")[WEIGHT].float()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"init={directory}: {(str(error).splitlines() or ['?'])[0]}") from error
    if prompt.dim() != 2 or not prompt.isfinite().all():
        raise ValueError(f"init={directory} is damaged: {WEIGHT} must be vectors of finite numbers")
    if prompt.shape != (vectors, frozen.width):
        raise ValueError(
            f"init={directory} has {prompt.shape[0]} vectors of {prompt.shape[1]} numbers, and {vectors} of "
            f"{frozen.width} are wanted"
        )
    return prompt
