"""What one process and two do for test_distributed.py: a step of training, then evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState

from stoical.config.loading import load_recipe
from stoical.training.build import build_trainer
from stoical.training.launch import end_processes
from stoical.training.loss_watch import LossWatch
from stoical.training.micro_batches import parts_of
from stoical.training.throughput import Throughput
from stoical.training.trainer import StoicalTrainer


def what_is_reported(trainer: StoicalTrainer) -> dict[str, Any]:
    """Of a loss that is not finite on the last process alone, at first, and of the tokens that processes counted."""
    rank, watch, meter = PartialState().process_index, LossWatch(), Throughput()
    for step in (3, 4):  # at step 4 the averaged gradients have broken every process
        broken = step == 4 or rank == PartialState().num_processes - 1
        watch.add(torch.tensor(float("nan") if broken else 1.0), step, (f"step {step} of process {rank}",))
    first = watch.first_broken(trainer.accelerator)
    meter.count(SimpleNamespace(num_tokens=10 * (rank + 1), query_ids=("a",), input_ids=torch.zeros(2, 10)))
    rates = meter.since_last_log(trainer.accelerator)
    tokens = rates["tokens_per_second"] / rates["queries_per_second"]
    return {"broken": first.query_ids, "tokens_a_query": tokens, "real_tokens": rates["real_tokens"]}


def train_a_step(output: Path, words: Sequence[str]) -> None:
    """Write the gradient that reaches the optimizer, and how many micro-batches each process had of its own."""
    trainer, rank = build_trainer(load_recipe(*words)), PartialState().process_index
    parts = len(parts_of(next(iter(trainer.get_train_dataloader()))["batch"]))
    (output / f"parts{rank}").write_text(str(parts))
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: torch.save(
            torch.cat([p.grad.flatten() for p in trainer.model.parameters()]), output / f"gradient{rank}.pt"
        )
    )
    trainer.train()
    end_processes()


def train_and_evaluate(output: Path, words: Sequence[str]) -> None:
    """Train a step, keeping the gradient that reaches the optimizer, and evaluate; write what was seen to `output`."""
    trainer = build_trainer(load_recipe(*words))
    seen: list[torch.Tensor] = []
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters()]))
    )
    trainer.train()
    kept = {name: one.state_dict() for name, one in trainer.objectives.items() if one.keeps_state}
    torch.save(kept, output / f"objectives{PartialState().process_index}.pt")
    exact = trainer.evaluator(trainer.model_wrapped)
    generation = replace(trainer.evaluator, generation=True)(trainer.model)  # as evaluate.py: not wrapped
    proxy = replace(trainer.evaluator, mode="free_greedy_path")(trainer.model_wrapped)
    reported = what_is_reported(trainer)
    if PartialState().is_main_process:
        torch.save(seen[0], output / "gradient.pt")
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        facts = {"processes": PartialState().num_processes, "loss": losses[0], **reported}
        for name, result in (("exact", exact), ("free_greedy_path", proxy), ("generation", generation)):
            facts[name] = {"metrics": result.metrics, "rows": [row.to_json() for row in result.rows]}
        (output / "facts.json").write_text(json.dumps(facts))
    end_processes()
