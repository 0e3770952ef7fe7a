"""Activation checkpointing: the same gradients, metrics and self-check; refused where it would drop the cache."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from stoical.config.recipe import Recipe
from stoical.training.build import build_trainer
from tests.support.installed import CHECKPOINTING
from tests.support.tiny_recipe import tiny_lora, tiny_recipe

ON = f"training.{CHECKPOINTING}=true"
SHORT = ["training.max_steps=2", "training.max_grad_norm=0", "training.save_strategy=no", "training.warmup_steps=0"]
TWO_LAYERS = "model.config.num_hidden_layers=2"
MAKE = {
    "whole": lambda path, *extra: tiny_recipe(path, *SHORT, TWO_LAYERS, *extra),
    "lora": lambda path, *extra: tiny_lora(path, *SHORT, TWO_LAYERS, "lora.lora_dropout=0", *extra),
    "lora with dropout": lambda path, *extra: tiny_lora(path, *SHORT, TWO_LAYERS, "lora.lora_dropout=0.5", *extra),
}


def train(recipe: Recipe) -> tuple[list[Tensor], int]:
    """The gradients of each step, and how many layers were run through a checkpoint."""
    trainer, seen = build_trainer(recipe), []
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
    )
    with patch("transformers.modeling_utils.checkpoint", wraps=torch.utils.checkpoint.checkpoint) as checkpoint:
        trainer.train()
    return seen, checkpoint.call_count


@pytest.mark.parametrize("kind", MAKE)
def test_gradients_are_those_without(kind: str, tmp_path: Path) -> None:
    plain, none = train(MAKE[kind](tmp_path))
    recomputed, layers = train(MAKE[kind](tmp_path, ON))
    assert (none, layers) == (0, 4), "two layers in each of two steps"
    assert len(plain) == len(recomputed) == 2
    for gradient, expected in zip(recomputed, plain, strict=True):
        assert expected.norm() > 1e-3
        assert (gradient - expected).norm() < 1e-6 * expected.norm()


def test_the_reentrant_kind_reaches_adapters_too(tmp_path: Path) -> None:
    """It passes gradients only where an input has one, and the input of a frozen model has none of its own."""
    plain, _ = train(MAKE["lora"](tmp_path))
    reentrant, _ = train(MAKE["lora"](tmp_path, ON, f"training.{CHECKPOINTING}_kwargs={{use_reentrant: true}}"))
    for gradient, expected in zip(reentrant, plain, strict=True):
        assert (gradient - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("mode", ["exact", "greedy_path", "free_greedy_path"])
def test_evaluations_during_training_are_those_without(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rollouts of free_greedy_path keep a cache, which checkpointing drops in training mode."""
    found = []
    for extra in ([], [ON]):
        trainer = build_trainer(MAKE["lora"](tmp_path, f"eval.mode={mode}", "training.eval_steps=1", *extra))
        with caplog.at_level(logging.WARNING):
            trainer.train()
        logs = [log for log in trainer.state.log_history if "eval_ndcg" in log]
        found.append([{name: log[name] for name in log if name.startswith("eval_")} for log in logs])
    assert len(found[0]) == 2
    assert found[0] == found[1]
    assert sum("self-check: sequence and plain" in message for message in caplog.messages) == 2
