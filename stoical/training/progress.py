"""What a training run prints while it runs: a bar on a terminal, plain lines elsewhere, and metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from stoical.evaluation.metrics import Metric, Place, metrics_among

RATES = {"tokens_per_second": "tokens/s", "queries_per_second": "queries/s"}


class ProgressBar(TrainerCallback):
    """One bar on the main process: steps, time left, loss, tokens and queries a second, CVR at the last evaluation."""

    bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start where the run starts, which is not step 0 when it is resumed."""
        self.figures: dict[str, str] = {}
        transformers_logging.disable_progress_bar()  # of writing every checkpoint: one bar is enough
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar by one step."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest figures beside the bar."""
        if self.bar is not None:
            self.figures |= bar_figures(logs or {})
            self.bar.set_postfix_str(", ".join(self.figures.values()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it stands."""
        transformers_logging.enable_progress_bar()
        if self.bar is not None:
            self.bar.close()


class LogLines(TrainerCallback):
    """One readable line a log on the main process, with the time left; beside a bar, evaluations only."""

    started = 0.0
    first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.started, self.first_step = time.perf_counter(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the losses with the time left, or an evaluation."""
        logs = logs or {}
        shown = "eval_ndcg" in logs or ("loss" in logs and args.disable_tqdm)
        if not state.is_world_process_zero or not shown:
            return
        done = max(1, state.global_step - self.first_step)
        left = (time.perf_counter() - self.started) / done * (state.max_steps - state.global_step)
        losses = f"{describe_losses(logs)}  {tqdm.format_interval(left)} left"
        text = describe_evaluation(logs) if "eval_ndcg" in logs else losses
        tqdm.write(f"step {state.global_step}/{state.max_steps}  {text}")


def bar_figures(logs: Mapping[str, float]) -> dict[str, str]:
    """What a bar shows of a log, by name: loss (nats), rates, and metrics in per cent."""
    figures = {"loss": f"loss {logs['loss']:.4g}"} if "loss" in logs else {}
    figures |= {name: f"{significant(logs[name])} {unit}" for name, unit in RATES.items() if name in logs}
    return figures | {metric.name: f"{metric.title} {value:.1f}%" for metric, value in _metrics(logs, "bar")}


def describe_losses(logs: Mapping[str, float]) -> str:
    """Every number of a training log but the epoch: losses in nats per unit of the normalizer."""
    shown = {RATES.get(name, name): float(value) for name, value in logs.items() if name != "epoch"}
    return "  ".join(f"{name} {significant(value)}" for name, value in shown.items())


def significant(value: float) -> str:
    """Four significant digits, or the whole number where it has more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def describe_evaluation(logs: Mapping[str, float]) -> str:
    """The metrics of the tables, in per cent."""
    found = [f"{metric.title} {value:.1f}" for metric, value in _metrics(logs, "tables")]
    return f"evaluation, % of {int(logs['eval_num_queries'])} queries: " + "  ".join(found)


def _metrics(logs: Mapping[str, float], place: Place) -> list[tuple[Metric, float]]:
    """The metrics of an evaluation's log that a place shows, in per cent."""
    found = metrics_among((name.removeprefix("eval_") for name in logs if name.startswith("eval_")), place)
    return [(metric, 100 * float(logs[f"eval_{metric.name}"])) for metric in found]


class MetricsFile(TrainerCallback):
    """Appends every log to `metrics.jsonl` in the run directory, on the main process."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line a log: the step and what was logged."""
        if state.is_world_process_zero:
            with (Path(str(args.output_dir)) / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")
