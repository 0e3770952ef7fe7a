"""A recipe to its model: the config, checked before any weight is loaded, the weights, and adapters over them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import disable_fsdp_ram_efficient_loading
from huggingface_hub.errors import StrictDataclassError
from omegaconf import OmegaConf
from peft import PeftModel, PeftType
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stoical.common.fields import unknown
from stoical.common.places import shipped
from stoical.config.loading import read_layer
from stoical.config.recipe import Recipe
from stoical.encoding.tokenization import MISTRAL_V3_MODELS, check_vocabulary
from stoical.models.adapters import add_lora, describe_trainable, keep_gradients, load_lora, quantization_config
from stoical.models.attention import register
from stoical.models.checks import check_model

logger = logging.getLogger(__name__)
register()  # configs and recipes name trie_sdpa before any forward pass

SOFT_PROMPTS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)


def build_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, local: bool = False) -> PreTrainedConfig:
    """The model's config, checked against the tokenizer and against what a trie needs, before any weight is loaded.

    local: no network is asked; Mistral-7B-v0.3's shape is known without.

    Raises `ValueError` for a model that cannot be found, whose attention cannot take the mask, or whose vocabulary is
    smaller than the tokenizer's.
    """
    config = _load_config(recipe, tokenizer, local)
    check_vocabulary(tokenizer, config.vocab_size)
    check_model(meta_model(recipe, config, "eager"), recipe.prompt.max_length)  # eager: what every architecture has
    meta_model(recipe, config)
    _check_config_keys(recipe, config)
    return config


def _load_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, local: bool) -> PreTrainedConfig:
    settings = recipe.model
    try:
        if settings.from_scratch:
            ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            return AutoConfig.for_model(
                settings.name, **{"vocab_size": len(tokenizer), "pad_token_id": None, **ids, **settings.config}
            )
        return AutoConfig.from_pretrained(settings.name, local_files_only=local, **settings.config)
    except StrictDataclassError as error:
        raise ValueError(f"model.config: {str(error).splitlines()[-1].strip()}") from error
    except (OSError, ValueError, KeyError) as error:
        if local and settings.name in MISTRAL_V3_MODELS:
            return mistral_v3_config(settings.config)
        raise ValueError(
            f"model.name={settings.name}: {_first_sentence(error)} (a local directory works without a network)"
        ) from error


def mistral_v3_config(changes: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of Mistral-7B-v0.3, which the overlay random_7b spells out, with `changes`."""
    _, overlay = read_layer(shipped("recipes") / "overlays" / "random_7b.yaml")
    shape: Any = OmegaConf.to_container(overlay.model.config)
    return AutoConfig.for_model("mistral", **{**shape, **changes})


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0]


def _check_config_keys(recipe: Recipe, config: PreTrainedConfig) -> None:
    known = [*type(config)().to_dict(), *config.attribute_map]
    for key, value in recipe.model.config.items():
        if key not in known and value is not None:  # null switches off what the model may not have
            raise unknown("model setting", f"model.config.{key}", [f"model.config.{name}" for name in known])


def meta_model(recipe: Recipe, config: PreTrainedConfig, attention: str | None = None) -> PreTrainedModel:
    """The model without its weights: shapes only, on the meta device, at no memory; with the recipe's attention."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention or recipe.model.attn_implementation
            )
    except (ValueError, ImportError) as error:
        raise ValueError(f"model.name={recipe.model.name}: {_first_sentence(error)}") from error
    return model


def build_model(recipe: Recipe, config: PreTrainedConfig) -> PreTrainedModel:
    """The model without adapters, in `model.dtype`: loaded, or random by `recipe.seed` when made from scratch.

    With the recipe's quantization, its linear layers are quantized. Raises `ValueError` without bitsandbytes for that.
    """
    options: dict[str, Any] = {
        "attn_implementation": recipe.model.attn_implementation,
        "dtype": getattr(torch, recipe.model.dtype),
    }
    if recipe.model.from_scratch:
        torch.manual_seed(recipe.seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
        return model
    if recipe.quantization is not None:
        options["quantization_config"] = quantization_config(recipe.quantization)
    model = AutoModelForCausalLM.from_pretrained(recipe.model.name, config=config, **options)
    if recipe.quantization is not None:
        keep_gradients(model)
    return model


def build_trainable(recipe: Recipe, config: PreTrainedConfig) -> nn.Module:
    """The model as it is trained: all of its weights, or the recipe's LoRA adapters over it, new or saved ones."""
    model = build_model(recipe, config)
    if recipe.lora is None:
        return model
    if recipe.model.adapter is None:
        wrapped = add_lora(model, recipe.lora, recipe.seed)
    else:
        wrapped = load_lora(model, recipe.lora, recipe.model.adapter)
    if PartialState().is_main_process:
        logger.warning(describe_trainable(wrapped))
    return wrapped


def load_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, adapter: Path | None = None, trainable: bool = False
) -> nn.Module:
    """The model that a recipe describes, checked; with `adapter`, peft's saved LoRA or soft prompt on top of it.

    An adapter is frozen unless `trainable`; whole weights never are.

    Raises `ValueError` as `build_config` does, for a soft prompt that the recipe's layout would not run with, and for
    those of peft's methods that write keys and values instead of tokens.
    """
    disable_fsdp_ram_efficient_loading()  # it fills the weights of one process, and here each one scores by itself
    model: nn.Module = build_model(recipe, build_config(recipe, tokenizer))
    if adapter is None:
        return model
    wrapped = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    config = wrapped.active_peft_config
    if config.is_prompt_learning and config.peft_type not in SOFT_PROMPTS:
        raise ValueError(f"{adapter}: {config.peft_type.value} is not supported; use LoRA, prompt tuning or p-tuning")
    if config.is_prompt_learning and recipe.layout != "cache":
        raise ValueError(f"{adapter} is a soft prompt, which layout={recipe.layout} cannot put first; set layout=cache")
    return wrapped
