"""LoRA on two gloo processes, which stand for two GPUs: DDP and FSDP2 train, save and resume as one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from stoical.commands import evaluate
from tests.support import forked, launched_adapters
from tests.support.launching import TWO_PROCESSES, fsdp2_on_cpus
from tests.support.tiny_run import train_tiny

LAUNCHED = {"ddp": ["plain", "dropout"], "fsdp2": list(launched_adapters.RUNS)}
EACH = [(launched, run) for launched, runs in LAUNCHED.items() for run in runs]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `launched_adapters` by one process, DDP and FSDP2, each with its facts.json."""
    root = tmp_path_factory.mktemp("adapters")
    train_tiny(root / "base")
    (root / "base" / "data").rename(root / "data")
    configs = {"ddp": TWO_PROCESSES, "fsdp2": fsdp2_on_cpus(root / "fsdp2.yaml")}
    for name, config in configs.items():
        (root / name).mkdir()
        arguments = (root / name, *LAUNCHED[name])
        forked.run(launched_adapters.train_all, *arguments, log=root / f"{name}.log", world=2, config=config)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return root


def facts(directory: Path, launched: str) -> dict[str, Any]:
    return json.loads((directory / launched / "facts.json").read_text())


@pytest.mark.parametrize("launched", LAUNCHED)
def test_two_processes_train_adapters_as_one(directory: Path, launched: str) -> None:
    trainer = launched_adapters.train_run(directory / "one", "plain")
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    found = facts(directory, launched)
    assert len(losses) == 6
    for run in {"plain", "checkpointing"} & set(LAUNCHED[launched]):
        assert found[run]["losses"] == pytest.approx(losses, abs=1e-5), run


@pytest.mark.parametrize(("launched", "run"), EACH)
def test_the_whole_adapter_is_saved(directory: Path, launched: str, run: str) -> None:
    """Every process compares the file with the weights that it gathers from all."""
    processes = facts(directory, launched)[run]["processes"]
    assert len(processes) == 2
    for process in processes:
        assert process["saved_whole"]
        assert process["moved"] > 1e-4
        assert process["looked_at"] == [True, 2]
        assert process["sharded"] == (launched == "fsdp2"), "else it would be DDP twice"
        assert process["dtypes"] == ["torch.bfloat16"] * (run == "bfloat16") + ["torch.float32"]


@pytest.mark.parametrize("launched", LAUNCHED)
def test_a_resumed_run_equals_one_that_went_through(directory: Path, launched: str) -> None:
    """Bit for bit, from the middle of an epoch, with dropout."""
    assert [p["resumed_equal"] for p in facts(directory, launched)["dropout"]["processes"]] == [True, True]


def test_shards_leave_no_base_model_behind(directory: Path) -> None:
    checkpoint = directory / "fsdp2" / "plain" / "checkpoint-6"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "recipe.yaml"} <= names
    assert "model.safetensors" not in names
    kept = torch.load(checkpoint / "pytorch_model_fsdp.bin", weights_only=True)
    base = {name for name in kept if "lora_" not in name}
    assert base <= {"base_model.model.lm_head.weight"}, "torch keeps the second name of tied weights"
    assert len(kept) - len(base) == 14


@pytest.mark.parametrize("run", ["plain", "bfloat16"])
def test_a_sharded_checkpoint_is_evaluated_with_no_other_flag(directory: Path, run: str) -> None:
    output = directory / "fsdp2" / run
    evaluate.main([f"checkpoint={output}"])
    found = json.loads((output / "eval" / "metrics.json").read_text())
    logs = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    seen = [log for log in logs if "eval_ndcg" in log][-1]
    for name in ("cvr", "ndcg", "recall@1", "valid_mass"):
        assert found[name] == pytest.approx(seen[f"eval_{name}"], abs=1e-5 if run == "plain" else 1e-2), name
