"""What `evaluate.py` is told: a checkpoint with the recipe saved beside it, or a recipe whose model is untrained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from transformers.trainer_utils import get_last_checkpoint

from stoical.config import build_recipe, dotlist_layer, load_recipe, read_layer, split_arguments
from stoical.settings import Recipe


def load_evaluation(arguments: Sequence[str]) -> tuple[Recipe, Path, int | None]:
    """The recipe to evaluate, the directory for results, and how many test queries (None: all, unless given).

    Raises `ValueError` where neither or both of checkpoint= and recipe= are given, and for a directory without a model.
    """
    values = split_arguments(arguments)
    if ("checkpoint" in values) == ("recipe" in values):
        raise ValueError("give either checkpoint=DIR (a run or a checkpoint) or recipe=NAME (its untrained model)")
    limited = "eval.num_queries" in values
    if "recipe" in values:
        recipe = load_recipe(arguments)
        return recipe, Path(str(recipe.output)) / "eval", recipe.eval.num_queries if limited else None
    checkpoint = find_checkpoint(values.pop("checkpoint"))
    output = Path(values.pop("output", str(_run_directory(checkpoint) / "eval")))
    recipe = build_recipe([*checkpoint_layers(checkpoint), dotlist_layer(values)])
    return recipe, output, recipe.eval.num_queries if limited else None


def find_checkpoint(directory: str) -> Path:
    """The directory itself if it holds a model, else the last checkpoint-N in it."""
    path = Path(directory)
    if not path.is_dir():
        raise ValueError(f"checkpoint={directory}: no such directory")
    if not (path / "config.json").is_file():
        last = get_last_checkpoint(directory)
        if last is None:
            raise ValueError(f"checkpoint={directory} holds neither a model (config.json) nor a checkpoint-N directory")
        path = Path(last)
    if not (path / "recipe.yaml").is_file():
        raise ValueError(f"{path} has no recipe.yaml, so stoical did not save it; try recipe=NAME model.name={path}")
    return path


def checkpoint_layers(path: Path) -> list[tuple[str, DictConfig]]:
    """The saved recipe, then what points it at the saved weights and tokenizer."""
    origin, saved = read_layer(path / "recipe.yaml")
    OmegaConf.update(saved, "model.config", {}, merge=False)
    weights = {"name": str(path), "from_scratch": False}
    tokenizer = {"name": str(path), "vocab_size": None}
    pointed = OmegaConf.create({"model": weights, "tokenizer": tokenizer})
    return [(origin, saved), (str(path), pointed)]


def _run_directory(checkpoint: Path) -> Path:
    return checkpoint.parent if checkpoint.name.startswith("checkpoint-") else checkpoint
