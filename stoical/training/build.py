"""A recipe to its trainer: training rows, collator, optimizer, objectives, trackers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainingArguments

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.evaluator import build_evaluator
from stoical.build.model import build_config, build_trainable, meta_model
from stoical.config.recipe import Recipe
from stoical.config.self_training import BashSettings
from stoical.config.values import recipe_yaml
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.files import load_manifest, split_sha256
from stoical.data.negatives import NegativeSampler
from stoical.encoding.generated_rows import RECORD_FILE, WithGenerated, read_provenance
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import load_template
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.encoding.tokenization import check_round_trip, pad_id
from stoical.evaluation.evaluator import Evaluator
from stoical.models.adapters import adapts_tied
from stoical.objectives.build import build_objectives
from stoical.objectives.objective import Objective
from stoical.runs.model_card import CardSource
from stoical.runs.processes import sharding
from stoical.runs.resume import fingerprint
from stoical.training.adafactor import Adafactor
from stoical.training.arguments import training_arguments
from stoical.training.memory_fit import largest_batch, needs_reference, run_memory, shortage
from stoical.training.micro_batches import TokenBudget
from stoical.training.tracking import build_trackers
from stoical.training.trainer import StoicalTrainer

logger = logging.getLogger(__name__)


def training_collator(
    recipe: Recipe, objectives: Mapping[str, Objective], tokenizer: PreTrainedTokenizerBase
) -> TrieTargetCollator | TokenBudget:
    """Packs queries for training: without nodes that carry no weight, unless an objective looks at the whole trie."""
    prune = not any(objective.needs_whole_trie for objective in objectives.values())
    collator, most = TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune), recipe.max_tokens_per_micro_batch
    return collator if most is None else TokenBudget(collator, most, recipe.training["per_device_train_batch_size"])


def build_trainer(recipe: Recipe, began: float | None = None) -> StoicalTrainer:
    """Everything, ready for `.train()`; `began` as `RunTrainer` takes it."""
    arguments = training_arguments(recipe)
    trackers = build_trackers(recipe, arguments)
    train, test = training_split(recipe), load_split(recipe.data.path, "test")
    check_lists(recipe, train)
    tokenizer = build_tokenizer(recipe, train)
    encoder = build_encoder(recipe, tokenizer)
    objectives = build_objectives(recipe.loss, recipe.mitigations, recipe.eval.score)
    dataset, collator = training_rows(recipe, train, encoder), training_collator(recipe, objectives, tokenizer)
    evaluator = training_evaluator(recipe, test, encoder)
    config = build_config(recipe, tokenizer)
    check_round_trip(tokenizer, config)
    split = sharding(recipe.training)
    recipe.mitigations.check_model(config, split)
    if split is not None:
        _check_split(recipe, split)
    if arguments.process_index == 0:
        batch = largest_batch(dataset, arguments.per_device_train_batch_size, collator)
        warning = shortage(run_memory(recipe, meta_model(recipe, config), config, batch), recipe.layout)
        if warning:
            logger.warning(warning)
    model = build_trainable(recipe, config)
    if split is not None and adapts_tied(model):
        raise ValueError(
            f"lora adapts embeddings or a head that have their weights in common, which {split} cannot split; use DDP, "
            "or leave them out of lora.target_modules, lora.modules_to_save and lora.trainable_token_indices"
        )
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
        evaluator=evaluator,
        layout=recipe.layout,
        recipe_yaml=recipe_yaml(recipe),
        card=CardSource(
            recipe,
            load_manifest(recipe.data.path),
            adapter=isinstance(model, PeftModel),
            generated=rows_made_from(recipe),
            weighted=train.weighted,
        ),
        fingerprint=fingerprint(recipe),
        began=began,
    )


def _check_split(recipe: Recipe, split: str) -> None:
    """Raise `ValueError` for what has not been proved with weights that processes share."""
    if needs_reference(recipe):
        raise ValueError(
            f"loss.ranking={recipe.loss.ranking} runs a second model, its reference, which has not been proved with "
            f"weights that {split} splits; use DDP"
        )
    if recipe.soft_prompt is not None:
        raise ValueError(
            f"soft_prompt runs parts of the model by themselves, which does not go with weights that {split} splits; "
            "use DDP, or one process"
        )


def training_evaluator(recipe: Recipe, test: RankingDataset, encoder: QueryEncoder) -> Evaluator:
    """The evaluator of a run. Raises `ValueError` for a query that it could not evaluate, where training would end."""
    evaluator = build_evaluator(recipe, test, encoder, recipe.eval.num_queries)
    if recipe.training.get("eval_strategy") != "no":
        try:
            evaluator.check()
        except ValueError as error:
            raise ValueError(f"{test.name}: {error}") from None
    return evaluator


def training_split(recipe: Recipe) -> RankingDataset:
    """The training split, with a teacher's score of every document where the loss learns from them."""
    ranking = recipe.loss.ranking_loss
    return load_split(recipe.data.path, "train", teacher=ranking is not None and ranking.needs_teacher)


def check_lists(recipe: Recipe, train: RankingDataset) -> None:
    """Raise `ValueError` where there is nothing to learn from the lists of the training data, or they tell the answer.

    A mitigation or a ranking loss may make nothing of them; a prompt that lists the one document of a row shows it.
    """
    longest = train.longest_list()
    recipe.mitigations.check_data(longest, train.weighted)
    if longest == 1 and recipe.loss.ranking is not None and not recipe.data.num_negatives:
        raise ValueError(
            f"loss.ranking={recipe.loss.ranking} compares the documents of a list, and every training row has one; set "
            "data.num_negatives (4, say), or use data with longer lists"
        )
    if longest == 1 and load_template(recipe.prompt.template).doc:
        raise ValueError(
            f"every row of {train.name} has one document, and prompt.template={recipe.prompt.template} shows it: the "
            "model would copy its answer; use prompt.template=plain, which shows the query alone"
        )


def _adafactor(arguments: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The paper's optimizer (Appendix A.1); `training.optim=adafactor` would drop beta1, and fail on shards."""
    return Adafactor, {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay}


def rows_made_from(recipe: Recipe) -> dict[str, Any] | None:
    """What the rows of data.generated were made from; None for a recipe without them."""
    record = read_provenance(Path(recipe.data.generated)) if recipe.data.generated is not None else None
    return None if record is None else record["made_from"]


def _pool(recipe: Recipe, train: RankingDataset) -> list[str]:
    """The docIDs to draw negatives from, beside a row's own: none where only a teacher's scores are compared."""
    ranking = recipe.loss.ranking_loss
    only_teacher = ranking is not None and ranking.needs_teacher and not recipe.mitigations.with_negatives
    return [] if only_teacher else train.docids()


def training_rows(recipe: Recipe, train: RankingDataset, encoder: QueryEncoder) -> EncodedDataset:
    """The dataset that a recipe trains on: the training split, with data.num_negatives or the rows of data.generated.

    Raises `ValueError` for a file that is missing or unfinished, or made for other data, another seed or kind of loss.
    """
    if recipe.data.generated is None:
        count = recipe.data.num_negatives
        sampler = NegativeSampler(_pool(recipe, train), count, recipe.seed) if count else None
        return EncodedDataset(train, encoder, sampler=sampler)
    path = Path(recipe.data.generated)
    record = read_provenance(path)
    if record is None:
        raise ValueError(
            f"data.generated={path}: there is no such file, or no {RECORD_FILE} beside it that was written with it; "
            "stoical self-train makes both"
        )
    made_from = record["made_from"]
    for key, name, now in (
        ("train_sha256", f"data.path={recipe.data.path}", split_sha256(recipe.data.path, "train")),
        ("seed", f"seed={recipe.seed}", recipe.seed),
    ):
        if made_from[key] != now:
            raise ValueError(
                f"data.generated={path} does not go with {name}: its {key} is {made_from[key]}, and here it is {now}; "
                "have stoical self-train generate rows for this recipe"
            )
    if made_from["method"] == "bash":
        BashSettings(**made_from["settings"]).check(recipe.loss, recipe.mitigations.chosen)
    return WithGenerated(train, encoder, pq.read_table(path), made_from)
