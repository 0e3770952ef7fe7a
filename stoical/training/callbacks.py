"""What the trainer reports to others at the events of its loop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stoical.common.time_spent import TimeSpent
from stoical.encoding.queries import EncodedDataset
from stoical.objectives.objective import Objective
from stoical.training.loader import Ahead


class AfterStep(TrainerCallback):
    """Calls the objectives after every step of the optimizer."""

    def __init__(self, objectives: Iterable[Objective]) -> None:
        self.objectives = list(objectives)

    def on_optimizer_step(self, *arguments: Any, **kwargs: Any) -> None:
        """Once a step, on every process."""
        for objective in self.objectives:
            objective.after_step()


class Stages(TrainerCallback):
    """Counts what passed before the first step as the start, and the time in the optimizer, on every process."""

    def __init__(self, spent: TimeSpent) -> None:
        self.spent, self._stepping = spent, 0.0

    def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
        """All so far was the start."""
        self.spent.all_so_far("start")

    def on_pre_optimizer_step(self, *arguments: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._stepping = time.perf_counter()

    def on_optimizer_step(self, *arguments: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.spent.add("optimizer", time.perf_counter() - self._stepping)


class Cadence(TrainerCallback):
    """What transformers 5.23 forgets to tell a run that resumes."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log, evaluate and save as often as is asked now, not as the checkpoint's run did."""
        state.compute_steps(args, state.max_steps)


class EpochShuffle(TrainerCallback):
    """What transformers 5.23 and accelerate 1.15 forget to tell the dataset."""

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader[Any],
        **kwargs: Any,
    ) -> None:
        """Tell the dataset the epoch.

        The loader of several processes never does, and that of one does not in an epoch that a resumed run begins in
        the middle: every query's documents would be shuffled as in epoch 0.
        """
        dataset = train_dataloader.dataset
        assert isinstance(dataset, EncodedDataset | Ahead)
        dataset.set_epoch(int(state.epoch or 0))
