"""What a training run says while it runs: a bar on a terminal, and one plain line a log either way."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

PERCENTAGES = {"eval_cvr": "CVR", "eval_ndcg": "nDCG"}


class ProgressBar(ProgressCallback):
    """transformers' bar, without its printing of raw log dictionaries."""

    def on_log(self, *arguments: Any, **kwargs: Any) -> None:
        """Say nothing: `LogLines` does."""


class LogLines(TrainerCallback):
    """One readable line a log on the main process, with the time left."""

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
        if not state.is_world_process_zero or not ("loss" in logs or "eval_ndcg" in logs):
            return
        done = max(1, state.global_step - self.first_step)
        left = (time.perf_counter() - self.started) / done * (state.max_steps - state.global_step)
        text = describe_evaluation(logs) if "eval_ndcg" in logs else f"{describe_losses(logs)}  {left:.0f} s left"
        tqdm.write(f"step {state.global_step}/{state.max_steps}  {text}")


def describe_losses(logs: Mapping[str, float]) -> str:
    """Every number of a training log but the epoch: losses in nats per unit of the normalizer."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in logs.items() if name != "epoch")


def describe_evaluation(logs: Mapping[str, float]) -> str:
    """CVR, nDCG and R@k in per cent."""
    names = PERCENTAGES | {name: "R@" + name.split("@")[1] for name in logs if "recall@" in name}
    found = [f"{title} {100 * float(logs[name]):.1f}" for name, title in names.items() if name in logs]
    return f"evaluation, % of {int(logs['eval_num_queries'])} queries: " + "  ".join(found)


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
            with (Path(str(args.output_dir)) / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")
