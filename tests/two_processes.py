"""Run by tests/test_distributed.py under `accelerate launch`: one step, then evaluations; writes what it saw.

accelerate launch ... -m tests.two_processes OUTPUT key=value ...
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from stoical.build import build_trainer
from stoical.config import load_recipe


def main() -> None:
    """Train one step of the recipe, keeping the gradient that reaches the optimizer, and evaluate."""
    output = Path(sys.argv[1])
    trainer = build_trainer(load_recipe(sys.argv[2:]))
    seen: list[torch.Tensor] = []
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters()]))
    )
    trainer.train()
    kept = trainer._objectives_state()
    torch.save(kept, output / f"objectives{PartialState().process_index}.pt")
    exact = trainer.evaluator(trainer.model_wrapped)
    proxy = replace(trainer.evaluator, mode="greedy_path")(trainer.model_wrapped)
    if PartialState().is_main_process:
        torch.save(seen[0], output / "gradient.pt")
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        facts = {"processes": PartialState().num_processes, "loss": losses[0]}
        for name, result in (("exact", exact), ("greedy_path", proxy)):
            facts[name] = {"metrics": result.metrics, "rows": result.rows}
        (output / "facts.json").write_text(json.dumps(facts))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
