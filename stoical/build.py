"""A recipe to its parts: tokenizer, model, datasets, collator, evaluator, trainer."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
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
    TrainingArguments,
)

from stoical.adafactor import Adafactor
from stoical.adapters import add_lora, describe_trainable, keep_gradients, load_lora, quantization_config
from stoical.arguments import training_arguments
from stoical.data import RankingDataset, RankingRow, load_manifest, load_split
from stoical.evaluator import Evaluator
from stoical.fields import unknown
from stoical.launch import sharding
from stoical.losses import Objective
from stoical.memory_fit import largest_batch, run_memory, shortage
from stoical.mitigations import build_objectives
from stoical.model_card import CardSource
from stoical.model_checks import check_model
from stoical.packing import TrieTargetCollator
from stoical.prompts import load_template
from stoical.queries import EncodedDataset, QueryEncoder
from stoical.resume import fingerprint
from stoical.self_training.generated import rows_made_from, training_rows
from stoical.settings import Recipe
from stoical.tokenization import DocIDTokenizer, check_vocabulary, load_tokenizer, train_bpe
from stoical.tracking import build_trackers
from stoical.trainer import StoicalTrainer

logger = logging.getLogger(__name__)

SOFT_PROMPTS = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)
BPE_SAMPLE = 20_000  # queries that a BPE is trained on: more change its merges little


def build_tokenizer(recipe: Recipe, train: RankingDataset | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that the recipe names, or a BPE trained on a sample of the training split (loaded if not given)."""
    if recipe.tokenizer.name != "bpe":
        return load_tokenizer(recipe.tokenizer.name)
    train = train or load_split(recipe.data.path, "train")
    assert recipe.tokenizer.vocab_size is not None
    picked = sorted(random.Random(0).sample(range(len(train)), min(len(train), BPE_SAMPLE)))
    return train_bpe(_texts(train[index] for index in picked), recipe.tokenizer.vocab_size)


def _texts(rows: Iterable[RankingRow]) -> Iterator[str]:
    for row in rows:
        yield row.query
        for doc in row.docs:
            yield doc.docid
            if doc.text:
                yield doc.text


def build_encoder(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> QueryEncoder:
    """Rows to token ids, as the recipe's prompt and tokenizer sections say."""
    docid_tokenizer = DocIDTokenizer(tokenizer, recipe.tokenizer.terminator, recipe.tokenizer.count_terminator)
    return QueryEncoder(
        load_template(recipe.prompt.template), tokenizer, docid_tokenizer, recipe.prompt.max_length, recipe.seed
    )


def build_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The model's config, checked against the tokenizer and against what a trie needs, before any weight is loaded.

    Raises `ValueError` for a model that cannot be found, whose attention cannot take the mask, or whose vocabulary is
    smaller than the tokenizer's.
    """
    config = _load_config(recipe, tokenizer)
    check_vocabulary(tokenizer, config.vocab_size)
    check_model(meta_model(recipe, config, "eager"), recipe.prompt.max_length)  # eager: what every architecture has
    meta_model(recipe, config)
    _check_config_keys(recipe, config)
    return config


def _load_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    settings = recipe.model
    try:
        if settings.from_scratch:
            ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            return AutoConfig.for_model(
                settings.name, **{"vocab_size": len(tokenizer), "pad_token_id": None, **ids, **settings.config}
            )
        return AutoConfig.from_pretrained(settings.name, **settings.config)
    except StrictDataclassError as error:
        raise ValueError(f"model.config: {str(error).splitlines()[-1].strip()}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model.name={settings.name}: {_first_sentence(error)} (a local directory works without a network)"
        ) from error


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


def build_evaluator(recipe: Recipe, test: RankingDataset, encoder: QueryEncoder, num_queries: int | None) -> Evaluator:
    """Scoring of the test split as the recipe's eval section says, negatives included."""
    return Evaluator(
        dataset=EncodedDataset(test, encoder, negatives=True),
        collator=TrieTargetCollator(recipe.loss, pad_id(encoder.tokenizer), prune=False),
        mode=recipe.eval.mode,
        score=recipe.eval.score,
        recall_at=recipe.eval.recall_at,
        batch_size=recipe.eval.batch_size,
        layout=recipe.layout,
        num_beams=recipe.eval.num_beams,
        num_queries=num_queries,
    )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills the padding: never attended to and never a label, so EOS serves where no pad token exists."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def training_collator(
    recipe: Recipe, objectives: Iterable[Objective], tokenizer: PreTrainedTokenizerBase
) -> TrieTargetCollator:
    """Packs queries for training: without nodes that carry no weight, unless an objective looks at the whole trie."""
    prune = not any(objective.needs_whole_trie for objective in objectives)
    return TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune)


def build_trainer(recipe: Recipe) -> StoicalTrainer:
    """Everything, ready for `.train()`."""
    arguments = training_arguments(recipe)
    trackers = build_trackers(recipe, arguments)
    train, test = load_split(recipe.data.path, "train"), load_split(recipe.data.path, "test")
    recipe.mitigations.check_lists(train.longest_list())
    tokenizer = build_tokenizer(recipe, train)
    encoder = build_encoder(recipe, tokenizer)
    objectives = build_objectives(recipe.loss, recipe.mitigations, recipe.eval.score)
    dataset, collator = training_rows(recipe, train, encoder), training_collator(recipe, objectives, tokenizer)
    config = build_config(recipe, tokenizer)
    recipe.mitigations.check_model(config, sharding(arguments))
    if arguments.process_index == 0:
        batch = largest_batch(dataset, arguments.per_device_train_batch_size, collator)
        warning = shortage(run_memory(recipe, meta_model(recipe, config), config, batch), recipe.layout)
        if warning:
            logger.warning(warning)
    model = build_trainable(recipe, config)
    return StoicalTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=trackers,
        optimizer_cls_and_kwargs=_adafactor(arguments) if recipe.optimizer == "adafactor" else None,
        objectives=objectives,
        loss_normalizer=recipe.loss.normalizer,
        evaluator=build_evaluator(recipe, test, encoder, recipe.eval.num_queries),
        layout=recipe.layout,
        recipe_yaml=OmegaConf.to_yaml(recipe),
        card=CardSource(
            recipe,
            load_manifest(recipe.data.path),
            adapter=isinstance(model, PeftModel),
            generated=rows_made_from(recipe),
        ),
        fingerprint=fingerprint(recipe),
    )


def _adafactor(arguments: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The paper's optimizer (Appendix A.1); `training.optim=adafactor` would drop beta1, and fail on shards."""
    return Adafactor, {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay}
