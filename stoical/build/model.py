"""A recipe to its model: the config, checked before any weight is loaded, the weights, and adapters over them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import disable_fsdp_ram_efficient_loading
from huggingface_hub.errors import StrictDataclassError
from omegaconf import OmegaConf
from peft import PeftModel, PeftType
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stoical.common.fields import unknown
from stoical.common.places import shipped
from stoical.config.loading import read_layer
from stoical.config.recipe import Recipe
from stoical.encoding.tokenization import MISTRAL_V3_MODELS, check_vocabulary, inside_of_run, vocabulary_size
from stoical.models.adapters import (
    add_lora,
    add_soft_prompt,
    describe_trainable,
    keep_gradients,
    load_lora,
    load_soft_prompt,
    quantization_config,
    read_adapter,
)
from stoical.models.attention import register
from stoical.models.checks import check_model
from stoical.models.layouts import MASKABLE
from stoical.models.text_part import freeze_other_parts
from stoical.models.weight_files import left_out, quoted, refuse_whole, whole_numbers

logger = logging.getLogger(__name__)
register()  # configs and recipes name trie_sdpa before any forward pass

MODEL_ERRORS = (  # of making a model from a config
    *(ValueError, OSError, ImportError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError),
    *(AssertionError, MemoryError, SafetensorError),
)
SOFT_PROMPTS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)


def build_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, local: bool = False) -> PreTrainedConfig:
    """The model's config, checked against the tokenizer and against what a trie needs, before any weight is loaded.

    local: no network is asked; Mistral-7B-v0.3's shape is known without.

    Raises `ValueError` for a model that cannot be found, whose attention cannot take the mask, or whose vocabulary is
    smaller than the tokenizer's.
    """
    config = _load_config(recipe, tokenizer, local)
    check_vocabulary(tokenizer, config.get_text_config().vocab_size)
    virtual = 0 if recipe.soft_prompt is None else recipe.soft_prompt["num_virtual_tokens"]
    bare = meta_model(recipe, config, "eager")  # what every architecture has
    check_model(bare, recipe.prompt.max_length, virtual)
    meta_model(recipe, config)
    _check_config_keys(recipe, config)
    return config


def _load_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, local: bool) -> PreTrainedConfig:
    settings = recipe.model
    try:
        if settings.from_scratch:
            ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            return AutoConfig.for_model(
                settings.name,
                **{"vocab_size": vocabulary_size(tokenizer), "pad_token_id": None, **ids, **settings.config},
            )
        options = {"local_files_only": local, "trust_remote_code": False}  # else it asks whether to run what it brings
        return AutoConfig.from_pretrained(settings.name, **options, **settings.config)
    except StrictDataclassError as error:
        raise ValueError(f"model.config: {str(error).splitlines()[-1].strip()}") from error
    except MODEL_ERRORS as error:
        if local and settings.name in MISTRAL_V3_MODELS:
            return mistral_v3_config(settings.config)
        way = " (a local directory works without a network)" * (not settings.from_scratch)
        if "trust_remote_code" in str(error):
            way = ", and stoical runs none but its own; use a model of a kind that transformers has itself"
        elif (Path(settings.name) / "adapter_config.json").is_file():
            way = "; it holds an adapter and no model: set model.adapter to it, model.name to the model below it"
        elif inside := inside_of_run(settings.name):
            way = inside
        elif "gated repo" in str(error):
            way = f"; ask for access at https://huggingface.co/{settings.name}, then log in (hf auth login)"
        raise ValueError(f"model.name={settings.name}: {_first_sentence(error)}{way}") from error


def mistral_v3_config(changes: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of Mistral-7B-v0.3, which the overlay random_7b spells out, with `changes`."""
    _, overlay = read_layer(shipped("recipes") / "overlays" / "random_7b.yaml")
    shape: Any = OmegaConf.to_container(overlay.model.config)
    return AutoConfig.for_model("mistral", **{**shape, **changes})


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    sentence = lines[0].split(". ")[0] if lines else ""
    return (
        sentence if isinstance(error, ValueError | OSError) else f"cannot be made: {type(error).__name__}: {sentence}"
    )


def _check_config_keys(recipe: Recipe, config: PreTrainedConfig) -> None:
    known = [*type(config)().to_dict(), *config.attribute_map]
    for key, value in recipe.model.config.items():
        if key not in known and value is not None:  # null switches off what the model may not have
            raise unknown("model setting", f"model.config.{key}", [f"model.config.{name}" for name in known])


def meta_model(recipe: Recipe, config: PreTrainedConfig, attention: str | None = None) -> PreTrainedModel:
    """The model without its weights: shapes only, on the meta device, at no memory; with the recipe's attention.

    Raises `ValueError` where it cannot be made, with the attention that it can be made with.
    """
    wanted = attention or recipe.model.attn_implementation
    try:
        return _on_meta(config, wanted)
    except MODEL_ERRORS as error:
        name, other = f"model.name={recipe.model.name}", next((one for one in MASKABLE if _takes(config, one)), None)
        if other is not None:
            raise ValueError(f"{name} cannot use {wanted}; set model.attn_implementation={other}") from error
        raise ValueError(f"{name}: {_first_sentence(error)}") from error


def _takes(config: PreTrainedConfig, attention: str) -> bool:
    """True where a model of this config can be made with the attention."""
    try:
        _on_meta(config, attention)
    except MODEL_ERRORS:
        return False
    return True


def _on_meta(config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=attention)
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
        with model_errors(recipe):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
        return model
    if recipe.quantization is not None:
        options["quantization_config"] = quantization_config(recipe.quantization)
    held, packed = _whole_numbers(Path(recipe.model.name)), getattr(config, "quantization_config", None)
    with model_errors(recipe):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            recipe.model.name, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    _check_loaded(recipe, model, loaded)
    if packed is None:
        _check_kinds(held, model, loaded["unexpected_keys"])
    elif not model.is_quantized:
        model._weight_conversions = None  # else it is saved as it was loaded, under the names of packed weights
    if recipe.quantization is not None:
        keep_gradients(model)
    return model


def _check_loaded(recipe: Recipe, model: PreTrainedModel, loaded: Mapping[str, Any]) -> None:
    """Raise `ValueError` where files and config.json are of different models: tensors would be random, or unused."""
    name = f"model.name={recipe.model.name}"
    if loaded["missing_keys"]:
        raise ValueError(
            f"{name} lacks {quoted(loaded['missing_keys'])}, which config.json asks for: they would be random numbers. "
            "The files are damaged, or the config is another model's"
        )
    if loaded["mismatched_keys"]:
        sizes = [f"{key} {list(held)}, not {list(asked)}" for key, held, asked in loaded["mismatched_keys"]]
        config = "config.json with model.config" if recipe.model.config else "config.json"
        raise ValueError(f"{name} holds {quoted(sizes)} as {config} asks for: they are of different models")
    unused = [] if recipe.model.config else left_out(loaded["unexpected_keys"], model.state_dict())
    if unused:
        raise ValueError(
            f"{name} holds {quoted(unused)}, for which config.json has no place: it is damaged or another model's. To "
            "leave layers out on purpose, set model.config.num_hidden_layers"
        )


def _make_savable(recipe: Recipe, model: PreTrainedModel) -> None:
    """Keep of generation settings that contradict each other the special tokens alone, and say so.

    Many published ones do, such as a temperature without sampling. transformers refuses to save them once the trainer
    has put the tokenizer's special tokens there: at the first checkpoint. Nothing here reads them.
    """
    settings: GenerationConfig | None = model.generation_config
    try:
        if settings is not None:
            settings.validate(strict=True)
    except ValueError as error:
        tokens = {f"{kind}_token_id": getattr(settings, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        model.generation_config = GenerationConfig(**tokens)
        if PartialState().is_main_process:
            logger.warning(
                f"model.name={recipe.model.name}: generation_config.json contradicts itself, and what is saved has its "
                f"special tokens alone ({_first_sentence(error)})"
            )


@contextmanager
def model_errors(recipe: Recipe) -> Iterator[None]:
    """What goes wrong in here is a `ValueError` about the recipe's model."""
    try:
        yield
    except MODEL_ERRORS as error:
        name = f"model.name={recipe.model.name}"
        raise ValueError(f"{name}: {_first_sentence(error)}") from error


def _whole_numbers(directory: Path) -> dict[Path, list[str]]:
    """The tensors of whole numbers in every file of weights. Raises `ValueError` for a damaged one."""
    return {path: whole_numbers(path) for path in sorted(directory.glob("*.safetensors"))}


def _check_kinds(held: Mapping[Path, list[str]], model: PreTrainedModel, unused: Collection[str]) -> None:
    """Raise `ValueError` where tensors of whole numbers, which transformers takes as they are, became weights.

    Others may be held: buffers of the model, or of an earlier transformers' (the masks of GPT-NeoX), not loaded now.
    """
    past = model._keys_to_ignore_on_load_unexpected or []
    others = {*unused, *(name for name, buffer in model.named_buffers() if not buffer.is_floating_point())}
    for path, names in held.items():
        wrong = [name for name in names if name not in others]
        refuse_whole(path, [name for name in wrong if not any(re.search(pattern, name) for pattern in past)])


def build_trainable(recipe: Recipe, config: PreTrainedConfig) -> nn.Module:
    """The model as it is trained: all of its weights, or LoRA adapters or a soft prompt over it, new or saved ones."""
    whole = recipe.lora is None and recipe.soft_prompt is None
    if whole:
        check_loadable(recipe, meta_model(recipe, config))
    model = build_model(recipe, config)
    _make_savable(recipe, model)
    if whole:
        parts = freeze_other_parts(model)
        if parts and PartialState().is_main_process:
            logger.warning(f"text does not run through {quoted(parts)}, which stay as they are")
        return model
    wrapped = _with_soft_prompt(recipe, model) if recipe.lora is None else _with_lora(recipe, model, recipe.lora)
    if PartialState().is_main_process:
        logger.warning(describe_trainable(wrapped))
    return wrapped


def check_loadable(recipe: Recipe, model: PreTrainedModel) -> None:
    """Raise `ValueError` where the model would be saved as a kind that `AutoModelForCausalLM` does not know.

    So are some models of text that transformers takes out of one that sees pictures, too (Mllama).
    """
    if type(model.config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"model.name={recipe.model.name} would be saved as {model.config.model_type!r}, which transformers has no "
            "causal language model for, so that nothing could load it again; train adapters (recipe=...,lora), which "
            "are saved by themselves, or another model"
        )


def _with_lora(recipe: Recipe, model: PreTrainedModel, lora: Mapping[str, Any]) -> PeftModel:
    if recipe.model.adapter is None:
        return add_lora(model, lora, recipe.seed)
    return load_lora(model, lora, recipe.model.adapter)


def _with_soft_prompt(recipe: Recipe, model: PreTrainedModel) -> PeftModel:
    assert recipe.soft_prompt is not None
    if recipe.model.adapter is None:
        return add_soft_prompt(model, recipe.soft_prompt, recipe.tokenizer.name, recipe.seed)
    return load_soft_prompt(model, recipe.soft_prompt, recipe.tokenizer.name, recipe.model.adapter)


def load_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, adapter: Path | None = None, trainable: bool = False
) -> nn.Module:
    """The model that a recipe describes, checked; with `adapter`, peft's saved LoRA or soft prompt on top of it.

    An adapter is frozen unless `trainable`; whole weights never are.

    Raises `ValueError` as `build_config` does, for a soft prompt that the recipe's layout would not run with, and for
    those of peft's methods that write keys and values instead of tokens.
    """
    disable_fsdp_ram_efficient_loading()  # it fills the weights of one process, and here each one scores by itself
    model = build_model(recipe, build_config(recipe, tokenizer))
    if trainable:
        _make_savable(recipe, model)
    if adapter is None:
        if trainable:
            freeze_other_parts(model)
        return model
    wrapped = read_adapter(model, str(adapter), trainable)
    config = wrapped.active_peft_config
    if config.is_prompt_learning and config.peft_type not in SOFT_PROMPTS:
        raise ValueError(f"{adapter}: {config.peft_type.value} is not supported; use LoRA, prompt tuning or p-tuning")
    if config.is_prompt_learning and recipe.layout != "cache":
        raise ValueError(f"{adapter} is a soft prompt, which layout={recipe.layout} cannot put first; set layout=cache")
    check_model(wrapped, recipe.prompt.max_length)  # a soft prompt takes positions, too
    return wrapped
