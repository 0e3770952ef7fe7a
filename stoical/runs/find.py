"""Find a run's or a checkpoint's weights, and the recipe that was saved beside them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stoical.config.encoders import NO_LANGUAGE_MODEL
from stoical.config.loading import build_recipe, read_layer, settings_layer
from stoical.config.recipe import Recipe
from stoical.encoding.prompts import TEMPLATE_FILE
from stoical.runs.checkpoints import ITEMS_FILE, check_unchanged, last_checkpoint

_RANDOM = "model.from_scratch"


def load_checkpoint(checkpoint: Path, values: dict[str, str]) -> tuple[Recipe, Path | None]:
    """The recipe saved in a checkpoint, with `key=value` settings over it, and the directory of its adapter if any.

    Raises `ValueError` as `check_own_weights` does, and for settings that no recipe can have.
    """
    check_own_weights(checkpoint, values)
    recipe = build_recipe([*checkpoint_layers(checkpoint), settings_layer(values)])
    return recipe, checkpoint if is_adapter(checkpoint) else None


def check_own_weights(checkpoint: Path, settings: Container[str]) -> None:
    """Raise `ValueError` for settings that put other weights in the place of a checkpoint's own.

    Of an adapter, which has not the model below it, model.name may say where that is now.
    """
    adapter = is_adapter(checkpoint)
    for key in ("model.adapter",) if adapter else ("model.name", _RANDOM, "model.adapter"):
        if key in settings:
            held = "an adapter of its own" if adapter else "all weights of its model"
            raise ValueError(f"{key} has no place beside a checkpoint: {checkpoint} holds {held}; leave it out")
    drawn = adapter and OmegaConf.select(read_layer(checkpoint / "recipe.yaml")[1], _RANDOM)
    if drawn and "seed" in settings and _RANDOM not in settings:
        raise ValueError(f"seed decides the random model below the adapter {checkpoint}; leave it out")


def find_checkpoint(directory: str, encoders: bool = False) -> Path:
    """The directory itself if it holds a model, else the last checkpoint-N in it, or in its last iteration-N.

    Raises `ValueError` where there is none, where it has no recipe, where its files are not as they were saved, and for
    a lookup encoder where these are not wanted.
    """
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
    check_unchanged(path)
    if is_encoder(path) and not encoders:
        raise ValueError(f"{path} {NO_LANGUAGE_MODEL}")
    return path


def _last_iteration(path: Path) -> Path | None:
    """The last checkpoint of self-training's last iteration that has one."""
    numbers = [folder.name.removeprefix("iteration-") for folder in path.glob("iteration-*")]
    latest_first = sorted((int(number) for number in numbers if number.isdigit()), reverse=True)
    saved = (last_checkpoint(path / f"iteration-{number}") for number in latest_first)
    return next((checkpoint for checkpoint in saved if checkpoint is not None), None)


def checkpoint_layers(path: Path) -> list[tuple[str, DictConfig]]:
    """The saved recipe, then what points it at the saved weights, tokenizer and prompt; an adapter's base model stays.

    A soft prompt needs layout=cache, in which the layout it was trained in does not matter. A lookup encoder's recipe
    has nothing to point.
    """
    origin, saved = read_layer(path / "recipe.yaml")
    if is_encoder(path):
        return [(origin, saved)]
    pointed: dict[str, Any] = {"tokenizer": {"name": str(path), "vocab_size": None}}
    if (path / TEMPLATE_FILE).is_file():
        pointed["prompt"] = {"template": str(path / TEMPLATE_FILE)}
    if is_adapter(path):
        if is_soft_prompt(path):
            pointed["layout"] = "cache"
    else:
        OmegaConf.update(saved, "model.config", {}, merge=False)
        pointed["model"] = {"name": str(path), "from_scratch": False}
    return [(origin, saved), (str(path), OmegaConf.create(pointed))]


def _holds_model(path: Path) -> bool:
    return (path / "config.json").is_file() or is_adapter(path) or is_encoder(path)


def is_encoder(path: Path) -> bool:
    """True where a dual or cross encoder was saved: its table comes with the names of its rows."""
    return (path / ITEMS_FILE).is_file()


def is_adapter(path: Path) -> bool:
    """True where peft saved this: it holds what was trained, and the recipe names the model below."""
    return (path / "adapter_config.json").is_file()


def is_soft_prompt(path: Path) -> bool:
    """True for an adapter that puts tokens before every prompt instead of changing weights."""
    from stoical.models.adapters import saved_config

    return bool(saved_config(str(path)).is_prompt_learning)
