"""Checks of what is trained over a frozen model, LoRA or a soft prompt, and of how that model is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoical.common.fields import check_fields, unknown
from stoical.common.numbers import at_least
from stoical.config.libraries import library_fields
from stoical.config.recipe import Recipe

FIXED_LORA = {  # fields of LoraConfig that follow from the model, or that a checkpoint or a trie could not be read with
    "task_type": "stoical trains causal language models",
    "peft_type": "this section is LoRA",
    "auto_mapping": "peft fills it in",
    "peft_version": "peft fills it in",
    "base_model_name_or_path": "model.name says it",
    "revision": "model.name says it",
    "inference_mode": "training trains and evaluation does not",
    "alora_invocation_tokens": "it looks for tokens in a row of one document, and a row here holds a trie",
    **dict.fromkeys(
        ("loftq_config", "eva_config", "corda_config", "lora_ga_config", "kasa_config"),
        "it changes the model's own weights at the start, and a checkpoint holds the adapter alone",
    ),
    "monteclora_config": "its part of the loss would be left out",
    "arrow_config": "it chooses between several adapters, and a run trains one",
    **dict.fromkeys(("megatron_config", "megatron_core"), "stoical trains without Megatron"),
    **dict.fromkeys(("use_bdlora", "runtime_config"), "peft wants an object of its own there, which YAML has not"),
    **dict.fromkeys(("use_qalora", "qalora_group_size"), "it acts on GPTQ's layers alone"),
}
FIXED_SOFT_PROMPT = {  # fields of PromptTuningConfig
    **{key: FIXED_LORA[key] for key in FIXED_LORA if key not in ("peft_type", "alora_invocation_tokens")},
    "peft_type": "this section is prompt tuning",
    **dict.fromkeys(
        ("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"), "it follows from the model"
    ),
    "modules_to_save": "the model stays as it is",
    "tokenizer_name_or_path": "tokenizer.name says it",
    "tokenizer_kwargs": "tokenizer.name says how",
}
INITIAL_PROMPTS = ("RANDOM", "SAMPLE_VOCAB", "TEXT")
INITIAL_WEIGHTS = (True, False, "gaussian", "orthogonal")
TORCH_DTYPES = ("float32", "float16", "bfloat16", "uint8", "int8")


def check_adapters(recipe: Recipe) -> None:
    """Raise `ValueError` where `lora`, `soft_prompt` and `quantization` are not what peft and transformers take."""
    if recipe.lora is not None:
        _check_lora(recipe.lora)
        _check_reference(recipe, recipe.lora)
    if recipe.soft_prompt is not None:
        _check_soft_prompt(recipe, recipe.soft_prompt)
    if recipe.model.adapter is not None and recipe.lora is None and recipe.soft_prompt is None:
        raise ValueError(
            f"model.adapter={recipe.model.adapter} has no effect without the section lora or soft_prompt; drop one"
        )
    if recipe.quantization is None:
        return
    if recipe.lora is None and recipe.soft_prompt is None:
        raise ValueError(
            "quantization needs lora or soft_prompt: quantized weights cannot be trained, adapters over them and a "
            "prompt before them can"
        )
    if recipe.model.from_scratch:
        raise ValueError("quantization conflicts with model.from_scratch=true: weights are quantized when loaded")
    _check_quantization(recipe.quantization)


def _check_lora(lora: Mapping[str, Any]) -> None:
    for key in lora:
        if key in FIXED_LORA:
            raise ValueError(f"lora.{key} is not for a recipe to set: {FIXED_LORA[key]}")
    check_fields("lora", lora, library_fields("LoraConfig"), "peft.LoraConfig")
    start = lora.get("init_lora_weights", True)
    if start not in INITIAL_WEIGHTS:
        raise ValueError(
            f"lora.init_lora_weights={start} changes the model's own weights at the start, and a checkpoint holds the "
            "adapter alone; use true, false, gaussian or orthogonal"
        )
    at_least("lora.r", lora.get("r", 1), 1)


def _check_reference(recipe: Recipe, lora: Mapping[str, Any]) -> None:
    """Raise `ValueError` where the model without its adapters is not what it was before training.

    A loss with a reference compares with that, and takes it to be the model below the adapters.
    """
    if recipe.loss.ranking_loss is None or not recipe.loss.ranking_loss.needs_reference:
        return
    what = f"loss.ranking={recipe.loss.ranking} compares with the model before training"
    if recipe.model.adapter is not None:
        raise ValueError(
            f"{what}, and with model.adapter={recipe.model.adapter} that is not the model below the adapters; export "
            "them first (stoical export) and set model.name to the result"
        )
    if lora.get("bias", "none") != "none":
        raise ValueError(f"{what}, whose biases lora.bias={lora['bias']} trains in their place; set lora.bias=none")


def _check_soft_prompt(recipe: Recipe, soft_prompt: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a section `soft_prompt` that peft does not take, or that the recipe has no place for."""
    for key in soft_prompt:
        if key in FIXED_SOFT_PROMPT:
            raise ValueError(f"soft_prompt.{key} is not for a recipe to set: {FIXED_SOFT_PROMPT[key]}")
    check_fields("soft_prompt", soft_prompt, library_fields("PromptTuningConfig"), "peft.PromptTuningConfig")
    count = soft_prompt.get("num_virtual_tokens")
    if count is None or count < 1:
        raise ValueError(f"soft_prompt.num_virtual_tokens={count} must be at least 1: the vectors that are trained")
    _check_initial_prompt(recipe, soft_prompt)
    conflicts = {
        "lora": (recipe.lora is not None, "one of the two is trained; drop the other"),
        f"layout={recipe.layout}": (recipe.layout != "cache", "which cannot put it first; set layout=cache"),
        "training.neftune_noise_alpha": (
            recipe.training.get("neftune_noise_alpha") is not None,
            "whose noise is for embeddings that train; drop it",
        ),
        "mitigations.soft_sampling": (
            recipe.mitigations.soft_sampling is not None,
            "which feeds mixtures of tokens; use mitigations.scheduled_sampling",
        ),
        f"loss.ranking={recipe.loss.ranking}": (
            recipe.loss.ranking_loss is not None and recipe.loss.ranking_loss.needs_reference,
            "which compares with the model before training; use a loss without a reference",
        ),
        "self_training": (recipe.self_training is not None, "which goes on from weights or LoRA; drop one"),
    }
    for name, (conflict, way) in conflicts.items():
        if conflict:
            raise ValueError(f"soft_prompt conflicts with {name}, {way}")


def _check_initial_prompt(recipe: Recipe, soft_prompt: Mapping[str, Any]) -> None:
    start, text = soft_prompt.get("prompt_tuning_init", "RANDOM"), soft_prompt.get("prompt_tuning_init_text")
    if start not in INITIAL_PROMPTS:
        raise unknown(
            "start", f"soft_prompt.prompt_tuning_init={start}", INITIAL_PROMPTS, f" Use {', '.join(INITIAL_PROMPTS)}."
        )
    if (start == "TEXT") != bool(text):
        raise ValueError(
            "soft_prompt.prompt_tuning_init=TEXT goes with soft_prompt.prompt_tuning_init_text: set both, or neither"
        )
    if start == "TEXT" and recipe.tokenizer.name == "bpe":
        raise ValueError(
            "soft_prompt.prompt_tuning_init=TEXT conflicts with tokenizer.name=bpe, which peft cannot load; set "
            "tokenizer.name to a saved tokenizer"
        )


def _check_quantization(quantization: Mapping[str, Any]) -> None:
    fields = library_fields("BitsAndBytesConfig")
    check_fields("quantization", quantization, fields, "transformers.BitsAndBytesConfig")
    four, eight = quantization.get("load_in_4bit"), quantization.get("load_in_8bit")
    if four and eight:
        raise ValueError("quantization.load_in_4bit conflicts with quantization.load_in_8bit; choose one")
    if not (four or eight):
        raise ValueError("quantization has no effect without load_in_4bit=true or load_in_8bit=true")
    kind = quantization.get("bnb_4bit_quant_type", "nf4")
    if four and kind not in ("nf4", "fp4"):
        raise ValueError(f"quantization.bnb_4bit_quant_type={kind} must be nf4 or fp4")
    for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        if quantization.get(key) not in (None, *TORCH_DTYPES):
            raise ValueError(f"quantization.{key}={quantization[key]} must be one of {', '.join(TORCH_DTYPES)}")
