"""Experiment trackers (W&B, trackio, TensorBoard) beside `metrics.jsonl`: on the main process, and never fatal."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from stoical.config.checks import tracker_names
from stoical.config.recipe import Recipe

logger = logging.getLogger(__name__)

PACKAGES = {"wandb": ["wandb"], "trackio": ["trackio"], "tensorboard": ["tensorboard", "tensorboardX"]}  # any will do
INSTALL = {
    "wandb": "pip install wandb",
    "trackio": "pip install 'stoical[trackio]'",
    "tensorboard": "pip install 'stoical[tensorboard]'",
}


class WandbRun(WandbCallback):
    """transformers' callback, which also records the recipe, and closes its run so that the next one is another."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__()
        self.recipe = recipe

    def setup(self, *arguments: Any, **kwargs: Any) -> None:
        """Start the run, as transformers does."""
        super().setup(*arguments, **kwargs)
        self._wandb.config.update({"recipe": self.recipe})

    def on_train_end(self, *arguments: Any, **kwargs: Any) -> None:
        """Finish the run."""
        super().on_train_end(*arguments, **kwargs)
        self._wandb.finish()


def build_trackers(recipe: Recipe, arguments: TrainingArguments) -> list[TrainerCallback]:
    """The trackers that `training.report_to` of a recipe names, on the main process; none elsewhere.

    Raises `ValueError` for one whose package is not installed; a tracker that fails otherwise is reported and left out.
    """
    names = tracker_names(recipe.training.get("report_to"))
    for name in names:
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise ValueError(f"training.report_to={name}: {name} is not installed; {INSTALL[name]}")
    if arguments.process_index:
        return []
    os.environ.setdefault("WANDB_PROJECT", arguments.project)  # the field itself is read for trackio alone
    trackers: list[TrainerCallback] = []
    for name in names:
        try:
            trackers.append(Guarded(name, _make(name, recipe)))
        except Exception as error:
            logger.warning(f"{name} could not be started and is left out ({type(error).__name__}: {error})")
    return trackers


def _make(name: str, recipe: Recipe) -> TrainerCallback:
    if name == "wandb":
        return WandbRun(asdict(recipe))
    return TrackioCallback() if name == "trackio" else TensorBoardCallback()


class Guarded(TrainerCallback):
    """A tracker whose first failure is one warning and switches it off; training continues."""

    def __init__(self, name: str, tracker: TrainerCallback) -> None:
        self.name = name
        self.tracker: TrainerCallback | None = tracker

    def _tell(self, event: str, *arguments: Any, **kwargs: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, event)(*arguments, **kwargs)
        except Exception as error:
            self.tracker = None
            logger.warning(
                f"{self.name} failed in {event} and is switched off ({type(error).__name__}: {error}); training goes "
                "on, and metrics.jsonl has everything"
            )

    def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
        """Start the tracker's run."""
        self._tell("on_train_begin", *arguments, **kwargs)

    def on_log(self, *arguments: Any, **kwargs: Any) -> None:
        """Log losses, rates or metrics."""
        self._tell("on_log", *arguments, **kwargs)

    def on_save(self, *arguments: Any, **kwargs: Any) -> None:
        """Log a checkpoint, where WANDB_LOG_MODEL asks for it."""
        self._tell("on_save", *arguments, **kwargs)

    def on_push_begin(self, *arguments: Any, **kwargs: Any) -> None:
        """Link the tracker's page to the model that is being pushed."""
        self._tell("on_push_begin", *arguments, **kwargs)

    def on_train_end(self, *arguments: Any, **kwargs: Any) -> None:
        """Close the tracker's run."""
        self._tell("on_train_end", *arguments, **kwargs)
