"""Checks of a whole recipe, before anything loads: settings that conflict, are out of range or would have no effect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stoical.common.fields import check_fields, unknown
from stoical.common.numbers import at_least
from stoical.config.adapters import check_adapters
from stoical.config.encoders import check_training as check_encoder_training
from stoical.config.libraries import library_fields
from stoical.config.recipe import Recipe
from stoical.config.self_training import SelfTrainingSettings
from stoical.config.training_fields import ADAM, METRIC_DRIVEN, NOT_ADAM, OPTIM_ARGS, OWNED, REFUSED
from stoical.evaluation.grading import Gains
from stoical.evaluation.metrics import Metric, asked_metrics, metrics_of
from stoical.models.layouts import MASKABLE

TRACKERS = ("wandb", "trackio", "tensorboard")


def check_recipe(recipe: Recipe) -> None:
    """Raise `ValueError` where settings conflict, are of the wrong type, or would have no effect."""
    recipe.loss.check()
    _check_resume(recipe)
    if recipe.encoder is not None:
        _check_encoder(recipe)
        return
    recipe.mitigations.check(recipe.loss, recipe.tokenizer.terminator, recipe.data.num_negatives)
    _check_ranking(recipe)
    _check_numbers(recipe)
    _check_training(recipe)
    _check_eval(recipe)
    if recipe.data.num_negatives and (key := _made_rows(recipe)):
        raise ValueError(f"data.num_negatives conflicts with {key}, whose rows are trained on as made; drop one")
    if recipe.self_training is not None:
        _check_self_training(recipe, recipe.self_training)
    check_adapters(recipe)
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
    _check_layout(recipe)
    if (recipe.tokenizer.name == "bpe") != (recipe.tokenizer.vocab_size is not None):
        raise ValueError("tokenizer.vocab_size goes with tokenizer.name=bpe: set both, or neither")
    if recipe.tokenizer.terminator == "none" and not recipe.tokenizer.count_terminator:
        raise ValueError("tokenizer.count_terminator=false conflicts with tokenizer.terminator=none: drop one of them")


def _check_layout(recipe: Recipe) -> None:
    for name, method in recipe.mitigations.methods.items():
        if recipe.layout == "pointwise" and method.packed_only is not None:
            raise ValueError(
                f"layout=pointwise conflicts with mitigations.{name}, which {method.packed_only}; use layout=sequence "
                "or cache"
            )
    if recipe.layout == "pointwise" and recipe.max_tokens_per_micro_batch is not None:
        raise ValueError(
            "layout=pointwise conflicts with max_tokens_per_micro_batch, which counts the tokens of tries; use "
            "layout=sequence or cache, or training.per_device_train_batch_size"
        )
    for key in ("activation_checkpointing", "gradient_checkpointing"):  # new name and old
        if recipe.layout == "cache" and recipe.training.get(key):
            raise ValueError(
                f"layout=cache conflicts with training.{key}=true, which drops the cache; use layout=sequence"
            )


def _check_resume(recipe: Recipe) -> None:
    if recipe.resume_force and recipe.resume is None:
        raise ValueError("resume_force=true has no effect without resume=; add resume=auto, or drop it")


def _check_encoder(recipe: Recipe) -> None:
    if recipe.dual_encoder is not None and recipe.cross_encoder is not None:
        raise ValueError(
            "the sections dual_encoder and cross_encoder conflict: a run trains one of them; drop the other"
        )
    assert recipe.encoder is not None
    recipe.encoder.check()
    _check_numbers(recipe)
    _check_eval(recipe)
    check_encoder_training(recipe.training)


def _made_rows(recipe: Recipe) -> str | None:
    """The setting by which the recipe trains on rows that a model made, if it does."""
    made = {"data.generated": recipe.data.generated, "self_training": recipe.self_training}
    return next((key for key, rows in made.items() if rows is not None), None)


def _check_ranking(recipe: Recipe) -> None:
    loss = recipe.loss
    if loss.ranking is None:
        return
    if key := _made_rows(recipe):
        raise ValueError(f"loss.ranking={loss.ranking} conflicts with {key}, whose rows hold other prefixes; drop one")
    own = {"item": loss.item != "indicator", "token": loss.token != "one_hot"}
    if loss.ranking_alone and not recipe.mitigations.chosen and any(own.values()):
        key = next(key for key, given in own.items() if given)
        raise ValueError(
            f"loss.{key}={getattr(loss, key)} has no effect with loss.ranking={loss.ranking} in the loss's place; set "
            "loss.ranking_weight (1, say) to train both, or start from the recipe wordnet_ranking"
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
        "max_tokens_per_micro_batch": recipe.max_tokens_per_micro_batch,
        "prompt.max_length": recipe.prompt.max_length,
        "eval.batch_size": recipe.eval.batch_size,
        "eval.num_queries": recipe.eval.num_queries,
        "eval.num_beams": recipe.eval.num_beams,
        "eval.shuffles": recipe.eval.shuffles,
        "eval.recall_at": min(recipe.eval.recall_at, default=None),
    }
    for key, value in numbers.items():
        if value is not None:
            at_least(key, value, 1)
    if not 0 <= recipe.seed < 2**32:
        raise ValueError(f"seed={recipe.seed} must be from 0 to 4294967295")


def _check_eval(recipe: Recipe) -> None:
    for key in ("diagnostics", "generation", "calibration"):
        if getattr(recipe.eval, key) and recipe.eval.mode != "exact":
            raise ValueError(f"eval.{key}=true needs exact scores; drop eval.mode={recipe.eval.mode}")
    if recipe.eval.generation and not recipe.tokenizer.counts_terminator:
        raise ValueError(
            "eval.generation=true needs a model that was trained to end what it writes: tokenizer.terminator=eos and "
            "tokenizer.count_terminator=true"
        )
    _check_standard_metrics(recipe)


def _check_standard_metrics(recipe: Recipe) -> None:
    asked = asked_metrics(recipe.eval.metrics)
    if recipe.eval.gains is not None:
        Gains.parse(recipe.eval.gains)
        if not any(metric.needs_grades for metric in asked):
            raise ValueError(
                f"eval.gains={recipe.eval.gains} has no effect without graded_ndcg; add it: eval.metrics=[graded_ndcg]"
            )
    if not math.isfinite(recipe.eval.relevant_above):
        raise ValueError(f"eval.relevant_above={recipe.eval.relevant_above} must be a finite number")
    if recipe.eval.relevant_above and not any(metric.by_relevance for metric in asked):
        raise ValueError(
            f"eval.relevant_above={recipe.eval.relevant_above} has no effect without a metric of relevant documents; "
            "add one: eval.metrics=[map]"
        )


def _check_training(recipe: Recipe) -> None:
    fields = library_fields("TrainingArguments")
    for key, value in recipe.training.items():
        if key in OWNED:
            owner = OWNED[key]
            raise ValueError(
                f"training.{key} conflicts with {owner}, which sets it; use {owner}"
                if owner
                else f"training.{key} is not for a recipe to set: the trie's batches need it as it is"
            )
        if key in REFUSED and (value != fields[key].default or key.startswith("do_")):
            raise ValueError(f"training.{key}={value} is not for a recipe to set: {REFUSED[key]}")
    check_fields("training", recipe.training, fields, "TrainingArguments")
    tracker_names(recipe.training.get("report_to"))
    _check_optimizer(recipe)
    _check_length(recipe.training)
    _check_noise(recipe.training)
    _check_best(recipe)


def _check_optimizer(recipe: Recipe) -> None:
    if recipe.optimizer == "trainer":
        _check_optim(recipe.training)
        return
    if "optim" in recipe.training:
        raise ValueError(
            f"training.optim={recipe.training['optim']} conflicts with optimizer={recipe.optimizer}; "
            "set optimizer=trainer to use it, or training.optim=null to leave it out"
        )
    for key in ADAM:
        if recipe.training.get(key) is not None:
            raise ValueError(
                f"training.{key} has no effect with optimizer={recipe.optimizer}; set optimizer=trainer to use it, or "
                "leave it out"
            )


def _check_optim(training: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a setting of an optimizer that `training.optim` does not read."""
    optim = training.get("optim", "adamw_torch_fused")
    low_rank = optim.startswith(("galore", "apollo"))
    without = {
        **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon"), optim in NOT_ADAM),
        "optim_target_modules": not low_rank,
    }
    for key, ignored in without.items():
        if ignored and training.get(key) is not None:
            raise ValueError(f"training.{key} has no effect with training.optim={optim}; leave it out")
    given = training.get("optim_args") or ""
    for name in (part.partition("=")[0].strip() for part in given.split(",") if given):
        if name not in OPTIM_ARGS.get(optim, (name,)):
            known = ", ".join(OPTIM_ARGS[optim]) or "none"
            raise ValueError(f"training.optim_args={given}: {optim} does not read {name!r} there (it reads {known})")


def _check_noise(training: Mapping[str, Any]) -> None:
    noise = training.get("neftune_noise_alpha")
    if noise is not None and not 0 < noise < math.inf:
        raise ValueError(f"training.neftune_noise_alpha={noise} must be above 0, such as 5; null leaves it out")


def _check_length(training: Mapping[str, Any]) -> None:
    steps, epochs = training.get("max_steps", -1), training.get("num_train_epochs")
    if steps == 0:
        raise ValueError("training.max_steps=0 would train nothing; use stoical evaluate recipe=... for the start")
    if epochs is not None and steps > 0:
        raise ValueError(
            f"training.num_train_epochs={epochs} has no effect beside training.max_steps={steps}; set "
            "training.max_steps=-1 to count epochs, or leave it out"
        )
    if epochs is not None and epochs <= 0:
        raise ValueError(f"training.num_train_epochs={epochs} would train nothing; it must be above 0")
    if (strategy := training.get("train_sampling_strategy", "random")) not in ("random", "sequential"):
        raise ValueError(
            f"training.train_sampling_strategy={strategy} is not for a recipe to set: batches of one length are "
            "batches of one kind of query; use random or sequential"
        )


def _check_best(recipe: Recipe) -> None:
    """What needs a metric to compare checkpoints by has one, and one that evaluation measures."""
    training, metric = recipe.training, recipe.training.get("metric_for_best_model")
    schedule = training.get("lr_scheduler_type")
    for key, value in (("lr_scheduler_type", schedule), ("save_strategy", training.get("save_strategy"))):
        if value in (*METRIC_DRIVEN, "best") and metric is None:
            raise ValueError(f"training.{key}={value} needs training.metric_for_best_model (ndcg, say)")
    if metric is None:
        return
    if training.get("eval_strategy") == "no":
        raise ValueError(f"training.metric_for_best_model={metric} has no effect with training.eval_strategy=no")
    known = [each.name for each in measured(recipe)]
    if metric.removeprefix("eval_") not in known:
        raise unknown("metric", f"training.metric_for_best_model={metric}", known, f" Use one of {', '.join(known)}.")


def measured(recipe: Recipe) -> list[Metric]:
    """The metrics that evaluations during training log."""
    asked = asked_metrics(recipe.eval.metrics)
    return [*metrics_of(recipe.eval.recall_at, asked, free_run=recipe.eval.mode == "exact")]


def tracker_names(report_to: str | Sequence[str] | None) -> list[str]:
    """The trackers that `training.report_to` names. Raises `ValueError` for one that is not known."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    names = [] if names == ["none"] else names
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", f"training.report_to={name}", TRACKERS, f" Use {', '.join(TRACKERS)} or none.")
    return names
