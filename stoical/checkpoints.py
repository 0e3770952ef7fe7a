"""What `evaluate.py` is told: a checkpoint with the recipe saved beside it, or a recipe whose model is untrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from peft import PeftConfig

from stoical.config import build_recipe, dotlist_layer, load_recipe, read_layer, split_arguments
from stoical.prompts import TEMPLATE_FILE
from stoical.saving import last_checkpoint
from stoical.settings import Recipe


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What to evaluate: recipe, directory for results, how many test queries (None: all), and an adapter if any.

    diagnostics: also the mismatch of teacher forcing and free running, by position? generation: also the text that the
    model writes by itself?
    """

    recipe: Recipe
    output: Path
    num_queries: int | None
    adapter: Path | None
    diagnostics: bool
    generation: bool


def load_evaluation(arguments: Sequence[str]) -> Evaluated:
    """What the arguments say to evaluate: all test queries, unless eval.num_queries is among them.

    Results go to `eval` in the run's directory. Beside it and not over it: a checkpoint that is not the run's last
    (`eval_checkpoint-500`), another mode than exact (`eval_greedy_path`), a sample of the queries (`eval_200`). Raises
    `ValueError` where neither or both of checkpoint= and recipe= are given, for a directory without a model, and where
    diagnostics=true or generation=true cannot be had.
    """
    values = split_arguments(arguments)
    if ("checkpoint" in values) == ("recipe" in values):
        raise ValueError("give either checkpoint=DIR (a run or a checkpoint) or recipe=NAME (its untrained model)")
    wanted = {key: values.pop(key, "false") for key in ("diagnostics", "generation")}
    if "recipe" in values:
        recipe, adapter, output = load_recipe([f"{key}={value}" for key, value in values.items()]), None, None
        folder = Path(str(recipe.output)) / "eval"
    else:
        checkpoint = find_checkpoint(values.pop("checkpoint"))
        output = values.pop("output", None)
        recipe, adapter = load_checkpoint(checkpoint, values)
        folder = _results_of(checkpoint)
    _check_wanted(wanted, recipe)
    num_queries = recipe.eval.num_queries if "eval.num_queries" in values else None
    mode = "" if recipe.eval.mode == "exact" else f"_{recipe.eval.mode}"
    sample = "" if num_queries is None else f"_{num_queries}"
    results = folder.with_name(folder.name + mode + sample)
    chosen = {key: word == "true" for key, word in wanted.items()}
    return Evaluated(recipe, Path(output) if output else results, num_queries, adapter, **chosen)


def _check_wanted(wanted: dict[str, str], recipe: Recipe) -> None:
    for key, word in wanted.items():
        if word not in ("true", "false"):
            raise ValueError(f"{key}={word} must be true or false")
        if word == "true" and recipe.eval.mode != "exact":
            raise ValueError(f"{key}=true needs exact scores; drop eval.mode={recipe.eval.mode}")
    settings = recipe.tokenizer
    if wanted["generation"] == "true" and (settings.terminator == "none" or not settings.count_terminator):
        raise ValueError(
            "generation=true needs a model that was trained to end what it writes: tokenizer.terminator=eos and "
            "tokenizer.count_terminator=true"
        )


def _results_of(checkpoint: Path) -> Path:
    """Where a checkpoint's results go: `eval` in its run is for the last one."""
    if not checkpoint.name.startswith("checkpoint-"):
        return checkpoint / "eval"
    is_last = last_checkpoint(checkpoint.parent) == checkpoint
    return checkpoint.parent / ("eval" if is_last else f"eval_{checkpoint.name}")


def load_checkpoint(checkpoint: Path, values: dict[str, str]) -> tuple[Recipe, Path | None]:
    """The recipe saved in a checkpoint, with `key=value` settings over it, and the directory of its adapter if any."""
    recipe = build_recipe([*checkpoint_layers(checkpoint), dotlist_layer(values)])
    return recipe, checkpoint if is_adapter(checkpoint) else None


def find_checkpoint(directory: str) -> Path:
    """The directory itself if it holds a model, else the last checkpoint-N in it, or in its last iteration-N."""
    path = Path(directory)
    if not path.is_dir():
        raise ValueError(f"checkpoint={directory}: no such directory")
    if not _holds_model(path):
        last = last_checkpoint(directory) or _last_iteration(path)
        if last is None:
            raise ValueError(
                f"checkpoint={directory} holds no model (config.json), no adapter (adapter_config.json) and no "
                "checkpoint-N directory"
            )
        path = last
    if not (path / "recipe.yaml").is_file():
        instead = "put the recipe of its run beside it" if is_adapter(path) else f"try recipe=NAME model.name={path}"
        raise ValueError(f"{path} has no recipe.yaml, so stoical did not save it; {instead}")
    return path


def _last_iteration(path: Path) -> Path | None:
    """The last checkpoint of self_train.py's last iteration that has one."""
    numbers = [folder.name.removeprefix("iteration-") for folder in path.glob("iteration-*")]
    latest_first = sorted((int(number) for number in numbers if number.isdigit()), reverse=True)
    saved = (last_checkpoint(path / f"iteration-{number}") for number in latest_first)
    return next((checkpoint for checkpoint in saved if checkpoint is not None), None)


def checkpoint_layers(path: Path) -> list[tuple[str, DictConfig]]:
    """The saved recipe, then what points it at the saved weights, tokenizer and prompt; an adapter's base model stays.

    A soft prompt needs layout=cache, in which the layout it was trained in does not matter.
    """
    origin, saved = read_layer(path / "recipe.yaml")
    pointed: dict[str, Any] = {"tokenizer": {"name": str(path), "vocab_size": None}}
    if (path / TEMPLATE_FILE).is_file():
        pointed["prompt"] = {"template": str(path / TEMPLATE_FILE)}
    if is_adapter(path):
        if PeftConfig.from_pretrained(str(path)).is_prompt_learning:
            pointed["layout"] = "cache"
    else:
        OmegaConf.update(saved, "model.config", {}, merge=False)
        pointed["model"] = {"name": str(path), "from_scratch": False}
    return [(origin, saved), (str(path), OmegaConf.create(pointed))]


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() or is_adapter(path)


def is_adapter(path: Path) -> bool:
    """Did peft save this? Then it holds what was trained, and the recipe names the model below."""
    return (path / "adapter_config.json").is_file()
