"""A recipe's settings as typed dataclasses, and the checks that run before anything else does.

The defaults are the paper's (Appendix A.1, WordNet): Mistral-7B-Instruct-v0.3, Adafactor with beta1 = 0.9, 10,000
steps.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments

from stoical.adapters import check_adapters
from stoical.fields import check_fields, fits, unknown
from stoical.forward import TRIE_ATTENTION, Layout
from stoical.losses import Normalizer
from stoical.mitigations import MitigationSettings
from stoical.model_checks import MASKABLE
from stoical.scoring import Mode, Reduction
from stoical.self_training.settings import SelfTrainingSettings
from stoical.targets import TargetSettings
from stoical.tokenization import Terminator

TRACKERS = ("wandb", "trackio", "tensorboard")
DType = Literal["float32", "bfloat16"]
PACKED_ONLY = {
    "professor_forcing": "reads hidden states along two walks down one trie",
    "soft_sampling": "feeds mixtures of tokens in the places of a packed row",
}


@dataclass
class DataSettings:
    """path: a dataset directory with train, test and manifest.json (`python -m data_prep.wordnet` makes one).

    generated: a file of rows made from its train split, which are trained on as well (self_train.py makes and sets it).
    num_negatives: docIDs that each training query gets to compare with, beside its own: the row's negatives, and others
    of the training split, drawn anew every epoch (`negatives.NegativeSampler`). No prompt holds them.
    """

    path: str = "data/wordnet"
    generated: str | None = None
    num_negatives: int = 0


@dataclass
class PromptSettings:
    """template: wordnet, esci, compact, codes, plain (the query alone) or a YAML file.

    max_length: of the prompt and the longest docID, in tokens.
    """

    template: str = "wordnet"
    max_length: int = 1024


@dataclass
class TokenizerSettings:
    """name: a hub id or directory, or `bpe`: a BPE of `vocab_size` tokens trained on the dataset, saved with the model.

    terminator: what ends a docID; count_terminator: whether it counts in the loss and in the mean log-probability.
    """

    name: str = "mistralai/Mistral-7B-Instruct-v0.3"
    vocab_size: int | None = None
    terminator: Terminator = "eos"
    count_terminator: bool = True


@dataclass
class ModelSettings:
    """name: a hub id or directory; with `from_scratch`, random weights in the shape that `config` gives.

    `config` holds fields of the model's `PretrainedConfig`; from scratch, `name` is an architecture such as `mistral`.
    adapter: with the section `lora`, a checkpoint whose adapters to go on from, in place of new ones.
    dtype: of the weights. bfloat16 is for those that LoRA leaves alone: a small learning rate does not move it.
    """

    name: str = "mistralai/Mistral-7B-Instruct-v0.3"
    from_scratch: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    attn_implementation: str = TRIE_ATTENTION
    dtype: DType = "float32"


@dataclass
class LossSettings(TargetSettings):
    """The weight table's row (see `TargetSettings`) and what the summed loss is divided by over the global batch."""

    normalizer: Normalizer = "points"


@dataclass
class EvalSettings:
    """mode: exact, or greedy_path (the paper's proxy, section 5.1). score: mean or sum of log-probabilities.

    num_queries: evaluated during training, a fixed sample of the split. num_beams: of the constrained beam search that
    free_run_ndcg is measured on.
    """

    mode: Mode = "exact"
    score: Reduction = "mean"
    recall_at: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    batch_size: int = 8
    num_queries: int | None = 500
    num_beams: int = 5


def paper_training() -> dict[str, Any]:
    """Appendix A.1, as `transformers.TrainingArguments` fields."""
    return {
        "max_steps": 10_000,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": True,
        "per_device_train_batch_size": 8,
        "logging_steps": 10,
        "eval_strategy": "steps",
        "eval_steps": 500,
        "save_steps": 500,
        "save_total_limit": 3,
    }


@dataclass
class Recipe:
    """Everything that defines a run. `training` holds `transformers.TrainingArguments` fields under their own names.

    lora: `peft.LoraConfig` fields, or null; the model below stays as it is, and checkpoints hold the adapter alone.
    quantization: `transformers.BitsAndBytesConfig` fields for that model, or null.

    output: the run directory (default runs/<recipe>). global_batch_size: queries a step, over all processes and
    accumulation steps. optimizer: `adafactor` is the paper's, with beta1 = 0.9; `trainer` leaves it to training.optim.
    resume: `auto` takes the last checkpoint of the run directory, or the path of one; a changed recipe, dataset or
    number of processes is refused unless resume_force. dry_run: show, do not train.

    self_training: for self_train.py alone, which trains on rows that the model itself writes.
    """

    output: str | None = None
    seed: int = 0
    global_batch_size: int = 64
    optimizer: Literal["adafactor", "trainer"] = "adafactor"
    layout: Layout = "sequence"
    resume: str | None = None
    resume_force: bool = False
    dry_run: bool = False
    data: DataSettings = field(default_factory=DataSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    loss: LossSettings = field(default_factory=LossSettings)
    mitigations: MitigationSettings = field(default_factory=MitigationSettings)
    self_training: SelfTrainingSettings | None = None
    eval: EvalSettings = field(default_factory=EvalSettings)
    training: dict[str, Any] = field(default_factory=paper_training)


def check_recipe(recipe: Recipe) -> None:
    """Raise `ValueError` where settings conflict, are of the wrong type, or would have no effect."""
    recipe.loss.check()
    recipe.mitigations.check(recipe.loss, recipe.tokenizer.terminator, recipe.data.num_negatives)
    _check_numbers(recipe)
    _check_training(recipe)
    for key, rows in (("data.generated", recipe.data.generated), ("self_training", recipe.self_training)):
        if recipe.data.num_negatives and rows is not None:
            raise ValueError(f"data.num_negatives conflicts with {key}, whose rows are trained on as made; drop one")
    if recipe.self_training is not None:
        _check_self_training(recipe, recipe.self_training)
    check_adapters(recipe.lora, recipe.quantization, recipe.model.from_scratch)
    if recipe.model.adapter is not None and recipe.lora is None:
        raise ValueError(f"model.adapter={recipe.model.adapter} has no effect without the section lora; drop one")
    if recipe.model.attn_implementation not in MASKABLE:
        raise ValueError(
            f"model.attn_implementation={recipe.model.attn_implementation} cannot take the mask of a trie; "
            f"use one of {', '.join(MASKABLE)}"
        )
    if recipe.loss.visits == "reach" and recipe.loss.normalizer == "weights":
        raise ValueError(
            "loss.visits=reach conflicts with loss.normalizer=weights: its weights are not known before the forward "
            "pass; use loss.normalizer=points or queries"
        )
    for name, why in PACKED_ONLY.items():
        if recipe.layout == "pointwise" and name in recipe.mitigations.chosen:
            raise ValueError(
                f"layout=pointwise conflicts with mitigations.{name}, which {why}; use layout=sequence or cache"
            )
    if (recipe.tokenizer.name == "bpe") != (recipe.tokenizer.vocab_size is not None):
        raise ValueError("tokenizer.vocab_size goes with tokenizer.name=bpe: set both, or neither")
    if recipe.resume_force and recipe.resume is None:
        raise ValueError("resume_force=true has no effect without resume=; add resume=auto, or drop it")
    if recipe.tokenizer.terminator == "none" and not recipe.tokenizer.count_terminator:
        raise ValueError("tokenizer.count_terminator=false conflicts with tokenizer.terminator=none: drop one of them")
    for key in ("activation_checkpointing", "gradient_checkpointing"):  # new name and old
        if recipe.layout == "cache" and recipe.training.get(key):
            raise ValueError(
                f"layout=cache conflicts with training.{key}=true, which drops the cache; use layout=sequence"
            )


def _check_self_training(recipe: Recipe, settings: SelfTrainingSettings) -> None:
    settings.check(recipe.loss, recipe.mitigations.chosen, recipe.tokenizer.terminator, recipe.training)
    if recipe.data.generated is not None:
        raise ValueError("self_training conflicts with data.generated, which it sets in every iteration; drop one")
    if recipe.lora is not None and recipe.model.from_scratch:
        raise ValueError(
            "self_training with lora conflicts with model.from_scratch=true: every iteration's seed would make another "
            "model below the adapters; set model.name to saved weights"
        )


def _check_numbers(recipe: Recipe) -> None:
    numbers = {
        "global_batch_size": recipe.global_batch_size,
        "prompt.max_length": recipe.prompt.max_length,
        "eval.batch_size": recipe.eval.batch_size,
        "eval.num_queries": recipe.eval.num_queries,
        "eval.num_beams": recipe.eval.num_beams,
        "eval.recall_at": min(recipe.eval.recall_at, default=None),
    }
    for key, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{key}={value} must be at least 1")


def _check_training(recipe: Recipe) -> None:
    owners = {
        "output_dir": "output",
        "seed": "seed",
        "gradient_accumulation_steps": "global_batch_size",
        "per_device_eval_batch_size": "eval.batch_size",
        "resume_from_checkpoint": "resume",
        "remove_unused_columns": None,
        "label_names": None,
        "average_tokens_across_devices": None,
    }
    if "hub_token" in recipe.training:
        raise ValueError(
            "training.hub_token would be written into the run's files; log in with `hf auth login` instead"
        )
    reasons = {
        "dataloader_persistent_workers": "workers that live on would shuffle documents as in the first epoch",
        "enable_jit_checkpoint": "it saves in the middle of a step; resume=auto goes on from the last checkpoint",
    }
    hints = typing.get_type_hints(TrainingArguments)
    _restore_no(recipe.training, hints)
    if recipe.training.get("optim") is None:  # null takes an overlay's word back
        recipe.training.pop("optim", None)
    types_of = {f.name: hints[f.name] for f in dataclasses.fields(TrainingArguments) if f.init}
    for key, value in recipe.training.items():
        if key in owners:
            owner = owners[key]
            raise ValueError(
                f"training.{key} conflicts with {owner}, which sets it; use {owner}"
                if owner
                else f"training.{key} is not for a recipe to set: the trie's batches need it as it is"
            )
        if key in reasons and value:
            raise ValueError(f"training.{key}={value} is not for a recipe to set: {reasons[key]}")
    check_fields("training", recipe.training, types_of, "TrainingArguments")
    tracker_names(recipe.training.get("report_to"))
    if recipe.optimizer != "trainer" and "optim" in recipe.training:
        raise ValueError(
            f"training.optim={recipe.training['optim']} conflicts with optimizer={recipe.optimizer}; "
            "set optimizer=trainer to use it, or training.optim=null to leave it out"
        )


def tracker_names(report_to: str | Sequence[str] | None) -> list[str]:
    """The trackers that `training.report_to` names. Raises `ValueError` for one that is not known."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    names = [] if names == ["none"] else names
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", f"training.report_to={name}", TRACKERS, f" Use {', '.join(TRACKERS)} or none.")
    return names


def _restore_no(training: dict[str, Any], types_of: dict[str, Any]) -> None:
    """YAML reads a bare `no` as False; where a setting takes words, not booleans (eval_strategy), the word is meant."""
    for key, value in training.items():
        if value is False and key in types_of and not fits(False, types_of[key]) and fits("no", types_of[key]):
            training[key] = "no"
