"""The movement check: weights that stay are told by name and number, and healthy runs hear nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from stoical.runs.resume import resume_from
from stoical.training.build import build_trainer
from stoical.training.movement import SAMPLE, MovementCheck, refuse_without_gradient, take_sample, warn_of_rounding
from tests.support.tiny_recipe import tiny_lora, tiny_recipe

WARNING = "WARNING:"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith(WARNING)]


def steps(count: int, *extra: str) -> list[str]:
    """A run of `count` steps without a warm-up, evaluation or checkpoint."""
    short = [f"training.max_steps={count}", "training.eval_strategy=no", "training.save_strategy=no"]
    return [*short, "training.warmup_steps=0", *extra]


def test_float32_weights_move_at_the_papers_learning_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_trainer(tiny_recipe(tmp_path, *steps(3, "training.learning_rate=1e-5"))).train()
    assert said(caplog) == []


def test_bfloat16_weights_do_not_and_the_reason_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The share is that of all elements with a gradient, counted here over the whole model."""
    slow = ["training.learning_rate=1e-5", "training.lr_scheduler_type=constant", "model.dtype=bfloat16"]
    trainer = build_trainer(tiny_recipe(tmp_path, *steps(2, *slow)))
    before: list[Tensor] = []
    changed: list[Tensor] = []
    trainer.create_optimizer()
    weights = list(trainer.model.parameters())
    trainer.optimizer.register_step_pre_hook(lambda *_: before.extend(p.detach().clone() for p in weights))
    trainer.optimizer.register_step_post_hook(
        lambda *_: changed.extend((p != b)[p.grad != 0] for p, b in zip(weights, before[-len(weights) :], strict=True))
    )
    trainer.train()
    share = 100 * torch.cat(changed[-len(weights) :]).float().mean().item()
    (message,) = [m for m in said(caplog) if "bfloat16 weights" in m]
    assert "learning rate 1e-05" in message
    assert "Set model.dtype=float32" in message
    assert 1 < share < 30
    assert float(message.split("changed ")[1].split("%")[0]) == pytest.approx(share, abs=2)
    assert any("do not move" in m and "model.norm.weight" in m for m in said(caplog)), "all its weights are 1"


def test_the_warning_waits_for_the_full_learning_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow = ["training.learning_rate=1e-5", "model.dtype=bfloat16", "training.warmup_steps=3"]
    build_trainer(tiny_recipe(tmp_path, *steps(3, *slow), output="short")).train()
    assert said(caplog) == []
    build_trainer(tiny_recipe(tmp_path, *steps(4, *slow), output="long")).train()
    assert any("step 4 changed" in message for message in said(caplog))


def test_large_steps_move_bfloat16_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_trainer(tiny_recipe(tmp_path, *steps(3, "training.learning_rate=0.05", "model.dtype=bfloat16"))).train()
    assert said(caplog) == []


def test_adapters_are_given_the_two_steps_they_need(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B is 0 at first and A has no gradient; with a warm-up, step 1 has a learning rate of 0 as well."""
    for warmup in (0, 1, 3):
        recipe = tiny_lora(tmp_path, *steps(5, f"training.warmup_steps={warmup}"), output=f"run{warmup}")
        trainer = build_trainer(recipe)
        trainer.train()
        (check,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, MovementCheck)]
        assert check.done
    assert said(caplog) == []


def test_a_tensor_that_nothing_reaches_stops_the_run(tmp_path: Path) -> None:
    trainer = build_trainer(tiny_recipe(tmp_path, *steps(5)))
    trainer.model.register_parameter("dangling", nn.Parameter(torch.ones(3)))
    with pytest.raises(
        ValueError, match=r"no gradient reached 1 of \d+ trainable tensors in the first 2 .*: dangling\. Train adapters"
    ):
        trainer.train()
    assert trainer.state.global_step == 1, "the second step was not counted: it raised"


def test_adapters_that_nothing_reaches_are_answered_with_the_setting() -> None:
    with pytest.raises(ValueError, match=r": layers\.0\.dt_proj\.lora_A\. Name their layers in lora\.exclude_modules"):
        refuse_without_gradient(["layers.0.dt_proj.lora_A", "layers.0.q_proj.lora_A"], torch.tensor([[0, 0], [5, 5]]))


def test_a_resumed_run_is_looked_at_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    every = ["training.max_steps=6", "training.save_steps=3", "training.eval_strategy=no", "training.warmup_steps=1"]
    every += ["training.learning_rate=1e-5", "model.dtype=bfloat16"]
    build_trainer(tiny_recipe(tmp_path, *every)).train()
    (tmp_path / "run" / "checkpoint-6").rename(tmp_path / "elsewhere")
    recipe = tiny_recipe(tmp_path, *every, "resume=auto")
    caplog.clear()
    build_trainer(recipe).train(resume_from_checkpoint=str(resume_from(recipe)))
    assert any("step 5 changed" in message for message in said(caplog))


def test_a_sample_is_of_elements_that_have_a_gradient() -> None:
    parameter = nn.Parameter(torch.randn(300, 200))
    assert take_sample(parameter) is None
    parameter.grad = torch.zeros_like(parameter)
    assert take_sample(parameter) is None
    parameter.grad[7, 11] = -1e-30
    sample = take_sample(parameter)
    assert sample is not None
    assert sample.places.tolist() == [7 * 200 + 11]
    with torch.no_grad():
        parameter[0] += 1
    assert sample.changed(parameter) == 0, "not a place of the sample"
    with torch.no_grad():
        parameter[7, 11] += 1
    assert sample.changed(parameter) == 1


@pytest.mark.parametrize("rows", [[64], [5, 900], list(range(1000))])
def test_a_sample_finds_the_few_rows_of_an_embedding(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stoical.training.movement.LOOKED_AT", 999
    )  # a stride of 65, more than a row: row 64 is skipped
    parameter = nn.Parameter(torch.randn(1000, 64))
    parameter.grad = torch.zeros_like(parameter)
    parameter.grad[rows] = 1.0
    sample = take_sample(parameter)
    assert sample is not None
    assert 0 < len(sample.places) <= SAMPLE
    assert set((sample.places // 64).tolist()) <= set(rows)
    torch.testing.assert_close(sample.before, parameter.detach().flatten()[sample.places])


def test_a_step_that_was_skipped_does_not_count() -> None:
    parameter = nn.Linear(3, 2, bias=False)
    parameter.weight.grad = torch.ones(2, 3)
    args = SimpleNamespace(get_warmup_steps=lambda steps: 0, device="cpu")
    state = SimpleNamespace(global_step=0, max_steps=9, is_world_process_zero=True)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}], step_was_skipped=True)
    AcceleratorState()
    check = MovementCheck()
    check.on_train_begin(args, state, None)
    for skipped, counted in ((True, 0), (True, 0), (False, 1), (False, 2)):
        optimizer.step_was_skipped = skipped
        check.on_pre_optimizer_step(args, state, None, model=parameter, optimizer=optimizer)
        with torch.no_grad():
            parameter.weight -= 0.0 if skipped else 0.1
        check.on_optimizer_step(args, state, None, model=parameter, optimizer=optimizer)
        assert check.steps == counted


@pytest.mark.parametrize("weight", [0.001, 0.016, 0.9, 1.0, 3.0])
def test_the_update_that_is_needed_is_where_bfloat16_rounds(weight: float, caplog: pytest.LogCaptureFixture) -> None:
    value = torch.tensor(weight).bfloat16()
    warn_of_rounding(torch.tensor([100, 0]), value.float(), 1e-5, 1)
    (message,) = said(caplog)
    least = float(message.split("needs an update of ")[1].split(" ")[0])
    assert value + torch.tensor(0.9 * least).bfloat16() == value
    assert value + torch.tensor(1.2 * least).bfloat16() != value


def test_the_share_is_of_elements_that_changed(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_rounding(torch.tensor([1000, 123]), torch.tensor(0.02), 1e-5, 7)
    (message,) = said(caplog)
    assert message.startswith("WARNING: step 7 changed 12.3% of the bfloat16 weights (of 1,000 sampled")
    caplog.clear()
    warn_of_rounding(torch.tensor([1000, 500]), torch.tensor(0.02), 1e-5, 7)
    assert said(caplog) == []
