"""What the steps of a run are made of: torch.profiler on the trainer itself, after two steps to warm up.

    python -m benchmarks.profile recipe=wordnet_alpha2,small,quickstart
    python -m benchmarks.profile recipe=wordnet_alpha2 steps=3 trace=trace.json training.bf16=true

Prints the operations by the time they take themselves, and the share of each stage of the run. trace= keeps a timeline
that chrome://tracing and https://ui.perfetto.dev show. Nothing is evaluated or saved; settings are the recipe's.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback

from stoical.commands.shell import Command, Given, execute, quiet_libraries
from stoical.common.options import option
from stoical.config.loading import load_recipe
from stoical.training.build import build_trainer

WARM_UP = 2  # steps before it counts


@dataclass
class ProfileOptions:
    """What the user can set beside a recipe's settings; `--help` prints it."""

    steps: int = option(5, "optimizer steps to profile")
    rows: int = option(20, "operations to print")
    shapes: bool = option(False, "list an operation once for every shape of its inputs")
    trace: str | None = option(None, "a file for the timeline")


class Steps(TrainerCallback):
    """Tells the profiler of every step's end."""

    def __init__(self, profiler: profile) -> None:
        self.profiler = profiler

    def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
        """One step more."""
        self.profiler.step()


def run(given: Given) -> None:
    """Train a few steps under the profiler and print what they took."""
    options = given.options
    quiet_libraries()
    words = given.settings | {
        "training.max_steps": str(options.steps + WARM_UP),
        "training.eval_strategy": "no",
        "training.save_strategy": "no",
    }
    with tempfile.TemporaryDirectory() as scratch:
        words["output"] = f"{scratch}/run"
        trainer = build_trainer(load_recipe(*(f"{key}={value}" for key, value in words.items())))
        with profile(
            activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available(),
            schedule=schedule(wait=0, warmup=WARM_UP, active=options.steps, repeat=1),
            on_trace_ready=partial(show, options),
            record_shapes=options.shapes,
            acc_events=True,
        ) as profiler:
            trainer.add_callback(Steps(profiler))
            trainer.train()


def show(options: ProfileOptions, profiler: profile) -> None:
    """Print the table, and write the timeline where one is asked for."""
    found = profiler.key_averages(group_by_input_shape=options.shapes)
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(found.table(sort_by=order, row_limit=options.rows, max_name_column_width=40))
    if options.trace is not None:
        profiler.export_chrome_trace(options.trace)
        print(f"timeline: {options.trace}")


def main() -> int:
    """Entry point of `python -m benchmarks.profile`."""
    return execute(Command(__doc__ or "", run, ProfileOptions, settings=True), sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
