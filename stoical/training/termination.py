"""SIGTERM, with which schedulers announce that they take a machine away: finish the step, save, and end."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SaveOnTermination(TrainerCallback):
    """Saves and stops at the end of a step where any process has received SIGTERM; `stopped` says that it did.

    All processes must stop after the same step. Each step shares the news, without waiting for it: it is read at the
    end of the next one, when it has long arrived.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._received = False
        self._earlier: Any = None
        self._news: tuple[torch.Tensor, Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen; a program that trains in another thread handles its signals itself."""
        if threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *arguments: Any) -> None:
        self._received = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have the trainer save and stop, on every process after the same step."""
        if self._agreed(args) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def _agreed(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self._received
        earlier, mine = self._news, torch.tensor(int(self._received), device=args.device)
        self._news = mine, torch.distributed.all_reduce(mine, async_op=True)
        if earlier is None:
            return False
        news, work = earlier
        work.wait()
        return bool(news.item())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hand the signal back."""
        if self._news is not None:
            self._news[1].wait()
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)
