"""The clock of a run in the race: processor seconds in training, and marks at which the model is evaluated.

Evaluation stops the clock. `process_time` counts all threads of the process, so that a loader that works ahead in a
thread is on the clock like one that does not; start-up (imports, tokenizer, rows, weights) is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Evaluate = Callable[[], Mapping[str, float]]
Times = tuple[float, float]
"""Seconds by two clocks: of the processor, and of the wall."""


def now() -> Times:
    """What the two clocks show."""
    return time.process_time(), time.perf_counter()


@dataclass(frozen=True, slots=True)
class Mark:
    """What a run had reached: processor seconds and input tokens of training, padding left out; metrics as fractions.

    A prompt that several rows repeat counts in each of them. wall: seconds of training by the wall clock.
    """

    seconds: float
    wall: float
    tokens: int
    step: int
    metrics: dict[str, float]


@dataclass
class Marks(TrainerCallback):
    """Evaluates before the first step, then after every `every_steps` steps or `every_seconds` seconds, and at the end.

    budget: processor seconds after which training stops; None: it ends by itself.
    """

    evaluate: Evaluate
    every_steps: int | None = None
    every_seconds: float | None = None
    budget: float | None = None
    tokens: int = 0
    marks: list[Mark] = field(default_factory=list)
    _started: Times | None = None
    _away: Times = (0.0, 0.0)  # in evaluation

    @property
    def times(self) -> Times:
        """Seconds of training so far, by both clocks."""
        if self._started is None:
            return 0.0, 0.0
        pairs = zip(now(), self._started, self._away, strict=True)
        cpu, wall = (end - start - away for end, start, away in pairs)
        return cpu, wall

    @property
    def seconds(self) -> float:
        """Processor seconds of training so far."""
        return self.times[0]

    def count_tokens(self, model: nn.Module) -> None:
        """Count what `model` reads while it trains; its inputs are keywords, or a dictionary."""
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if model.training:
            inputs = {**(arguments[0] if arguments else {}), **keywords}
            ids: Any = inputs["input_ids"]
            mask: Any = inputs.get("attention_mask")
            padded = mask is not None and mask.shape == ids.shape  # a trie's own mask has another; its row no padding
            self.tokens += int(mask.sum()) if padded else ids.numel()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and mark where it starts."""
        self._started = now()
        self._mark(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark where one is due, and stop where the budget is spent."""
        if self._is_due(state.global_step):
            self._mark(state.global_step)
        if self.budget is not None and self.seconds >= self.budget:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the end."""
        if self.marks[-1].step != state.global_step:
            self._mark(state.global_step)

    def _is_due(self, step: int) -> bool:
        if self.every_steps is not None:
            return step % self.every_steps == 0
        assert self.every_seconds is not None
        return self.seconds >= self.every_seconds * (1 + self.marks[-1].seconds // self.every_seconds)

    def _mark(self, step: int) -> None:
        times, stopped = self.times if self.marks else (0.0, 0.0), now()
        self.marks.append(Mark(*times, self.tokens, step, dict(self.evaluate())))
        cpu, wall = (away + end - start for away, end, start in zip(self._away, now(), stopped, strict=True))
        self._away = cpu, wall

    def to_json(self) -> list[dict[str, Any]]:
        """The marks as JSON has them."""
        return [asdict(mark) for mark in self.marks]


def falling(optimizer: torch.optim.Optimizer, marks: Marks, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate rises over `warmup`, a share of the budget, and falls to 0 at its end along a cosine.

    That is the recipe's own schedule with seconds in place of steps: whoever is slow falls as far, in fewer steps.
    """
    assert marks.budget is not None
    budget = marks.budget

    def factor(step: int) -> float:
        share = min(1.0, marks.seconds / budget)
        if share < warmup:
            return share / warmup
        return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
