"""What peft trains over a model that stays as it is, whole or quantized by bitsandbytes: LoRA, or a soft prompt."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from stoical.common.fields import unknown
from stoical.models.text_part import layers_within, other_parts
from stoical.models.weight_files import check_floats, left_out, quoted, weight_file


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

    Nor may `lora` name a layer that the model has not: peft would adapt the others and say nothing. Parts that text
    does not run through get none, unless `exclude_modules` says otherwise. The same `seed` gives the same adapters: on
    every process, and when a run starts again.
    """
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    parts = other_parts(model)
    without = {"exclude_modules": layers_within(parts)} if parts else {}
    with _errors_of("lora"):
        wrapped = _new(model, LoraConfig(task_type=TaskType.CAUSAL_LM, **{**without, **lora}), seed)
    _check_names(wrapped.active_peft_config, lora, [*modules, *parameters])
    _check_products(wrapped)
    _check_kept(wrapped)
    return wrapped


@torch.no_grad()
def _check_products(wrapped: PeftModel) -> None:
    """Raise `ValueError` for an adapted linear layer that gives more than its product: peft can add to that alone."""
    for name, module in wrapped.get_base_model().named_modules():
        layer = getattr(module, "base_layer", None)
        if isinstance(layer, nn.Linear) and type(layer).__module__.startswith("transformers.models."):
            row = torch.zeros(1, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype)
            if not isinstance(layer(row), torch.Tensor):
                last = name.rpartition(".")[2]
                raise ValueError(
                    f"lora adapts {name}, a {type(layer).__name__}, which gives more than a linear layer does; "
                    f"set lora.exclude_modules=[{last}]"
                )


def _check_kept(wrapped: PeftModel) -> None:
    """Raise `ValueError` for adapters that peft would save and not find again: it turns names to a later transformers'.

    A resumed run would go on with new ones in their place.
    """
    found = set_peft_model_state_dict(wrapped, get_peft_model_state_dict(wrapped))
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    lost = trained & set(found.missing_keys)
    if lost:
        layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in lost}
        raise ValueError(
            f"lora: peft cannot load what it would save of {quoted(lost)}; leave them out by "
            f"lora.exclude_modules=[{','.join(sorted(layers))}]"
        )


def _check_names(used: PeftConfig, lora: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `ValueError` for a layer in `lora` that is none of a model's `known` ones, modules and parameters.

    used: the configuration as peft has rewritten it, which lacks names that the model had before transformers 5.
    """
    for key, matches in NAMES.items():
        names = lora.get(key) or []
        for name in [] if isinstance(names, str) else names:
            if name in getattr(used, key) and not any(matches(str(name), one) for one in known):
                own = dict.fromkeys(one.rpartition(".")[2] for one in known)
                raise unknown(f"lora.{key}: layer", str(name), list(own))
    wanted = lora.get("layers_to_transform")
    for number in [wanted] if isinstance(wanted, int) else wanted or []:
        if not any(f".{number}." in name for name in known):
            raise ValueError(f"lora.layers_to_transform={wanted}: the model has no layer {number} (the first is 0)")


def _is_or_ends(name: str, layer: str) -> bool:
    return f".{layer}".endswith(f".{name}")


def _fits(pattern: str, layer: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", layer) is not None


NAMES: Mapping[str, Callable[[str, str], bool]] = {  # fields of LoraConfig that name layers -> how peft matches them
    **dict.fromkeys(("target_modules", "exclude_modules", "target_parameters"), _is_or_ends),
    "modules_to_save": lambda name, layer: layer.endswith(name),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), _fits),
}


def add_soft_prompt(model: PreTrainedModel, soft_prompt: Mapping[str, Any], tokenizer: str, seed: int) -> PeftModel:
    """The model with new float32 embeddings of virtual tokens before every prompt, all else frozen.

    tokenizer: where peft finds the one that reads `prompt_tuning_init_text`. The same `seed` gives the same embeddings.
    Raises `ValueError` for settings that peft refuses, and for a tokenizer that it does not find.
    """
    with _errors_of("soft_prompt"):
        return _new(model, _prompt_config(soft_prompt, tokenizer), seed)


def _new(model: PreTrainedModel, config: PeftConfig, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    wrapped: PeftModel = get_peft_model(model, config)
    return wrapped


def _prompt_config(soft_prompt: Mapping[str, Any], tokenizer: str) -> PromptTuningConfig:
    reads = {"tokenizer_name_or_path": tokenizer} if soft_prompt.get("prompt_tuning_init") == "TEXT" else {}
    return PromptTuningConfig(task_type=TaskType.CAUSAL_LM, **soft_prompt, **reads)


@contextmanager
def _errors_of(section: str) -> Iterator[None]:
    """What peft refuses in here is a `ValueError` about this section of the recipe."""
    try:
        yield
    except (ValueError, TypeError, OSError, NotImplementedError, IndexError) as error:
        raise ValueError(f"{section}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def adapts_tied(model: nn.Module) -> bool:
    """True for adapters of embeddings or of a head that have their weights in common."""
    if not isinstance(model, PeftModel) or model.active_peft_config.is_prompt_learning:
        return False
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    tied = base.config.get_text_config().tie_word_embeddings
    return tied and any(isinstance(each, BaseTunerLayer | AuxiliaryTrainingWrapper) for each in ends)


def load_lora(model: PreTrainedModel, lora: Mapping[str, Any], path: str) -> PeftModel:
    """The model with the adapters saved at `path`, trainable.

    Raises `ValueError` where they cannot be loaded, and where they are not what `lora` asks for, since peft goes by
    what was saved.
    """
    with torch.device("meta"):
        twin = type(model)(deepcopy(model.config))
    asked = add_lora(twin, lora, seed=0).active_peft_config  # as peft rewrites it for this model
    wrapped = read_adapter(model, path, trainable=True)
    _check_saved(wrapped.active_peft_config, asked, lora, "lora", path)
    return wrapped


def load_soft_prompt(model: PreTrainedModel, soft_prompt: Mapping[str, Any], tokenizer: str, path: str) -> PeftModel:
    """The model with the soft prompt saved at `path`, trainable.

    Raises `ValueError` as `load_lora` does, and where it was trained before another model: its vectors would mean
    nothing to this one.
    """
    saved = saved_config(path)
    _check_saved(saved, _prompt_config(soft_prompt, tokenizer), soft_prompt, "soft_prompt", path)
    theirs, ours = saved.base_model_name_or_path, model.name_or_path
    if theirs != ours:
        raise ValueError(f"model.adapter={path} is a soft prompt of the model {theirs}, not of model.name={ours}")
    check_weights(Path(path))
    wrapped = add_soft_prompt(model, soft_prompt, tokenizer, seed=0)  # peft loads a prompt that trains into one only
    with _reading(path):
        wrapped.load_adapter(path, wrapped.active_adapter, is_trainable=True)
    return wrapped


def _check_saved(saved: PeftConfig, asked: PeftConfig, keys: Iterable[str], section: str, path: str) -> None:
    if saved.peft_type != asked.peft_type:
        raise ValueError(f"model.adapter={path} is {saved.peft_type.value}, which the section {section} does not train")
    for key in keys:
        ours, theirs = _ordered(getattr(asked, key)), _ordered(getattr(saved, key))
        if ours != theirs:
            raise ValueError(
                f"{section}.{key}={ours} conflicts with model.adapter={path}, which was saved with {theirs}"
            )


def _ordered(value: Any) -> Any:
    """Names in one order, whether peft keeps them as a set or as a list."""
    return sorted(value, key=str) if isinstance(value, set | list) else value


def read_adapter(model: nn.Module, path: str, trainable: bool) -> PeftModel:
    """The model with what peft saved at `path`: LoRA, or a soft prompt.

    Raises `ValueError` where that cannot be read, holds whole numbers or layers that the model has not, or where
    tensors are missing: peft would leave them as they began.
    """
    saved_config(path)
    names = check_weights(Path(path))
    with _reading(path):
        wrapped: PeftModel = PeftModel.from_pretrained(model, path, is_trainable=trainable)
    unused = left_out(names, get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys())
    if unused:
        raise ValueError(f"adapter {path} holds {quoted(unused)}, for which the model below it has no place")
    return wrapped


def saved_config(path: str) -> PeftConfig:
    """What peft says of itself at `path`. Raises `ValueError` where that cannot be read."""
    with _reading(path):
        config: PeftConfig = PeftConfig.from_pretrained(path)
    return config


def check_weights(directory: Path) -> list[str]:
    """The names of the tensors in a directory. Raises `ValueError` where it has no file of them, or whole numbers."""
    path = directory / SAFETENSORS_WEIGHTS_NAME
    if not directory.is_dir() or (directory / WEIGHTS_NAME).is_file():  # on the hub, or in peft's former format
        return []
    check_floats(path)
    with weight_file(path) as file:
        return list(file.keys())


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What goes wrong in here, tensors that are missing too, is a `ValueError` about the adapter at `path`."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            yield
    except KeyError as error:
        raise ValueError(f"adapter {path}: {error} is missing, or unknown to peft") from error
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError, UserWarning) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ValueError(f"adapter {path}: {' '.join(lines[:2])[:300]}") from error


def describe_trainable(model: nn.Module) -> str:
    """How many parameters train, and what the others are."""
    assert isinstance(model, PeftModel)
    trainable, total = model.get_nb_trainable_parameters()
    kind = "soft prompt" if model.active_peft_config.is_prompt_learning else "LoRA"
    return f"{kind}: {trainable:,} of {total:,} parameters train ({100 * trainable / total:.2g}%)"
