"""Adafactor: the paper's algorithm in float64, transformers' on whole tensors, and states that load as saved."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from stoical.training.adafactor import Adafactor

SHAPES = [(7, 5), (1, 6), (3,), (1,), (4, 3, 5), (2, 2, 3, 4)]


def reference_step(weight, gradient, state, lr, beta1=0.9, weight_decay=0.0):
    """Shazeer and Stern (2018), Algorithm 4, element by element for a matrix; its rows and columns are sums there."""
    rows, columns = weight.shape
    state["t"] += 1
    beta2 = 1 - state["t"] ** -0.8
    for i in range(rows):
        total = sum(gradient[i][j] ** 2 + 1e-30 for j in range(columns))
        state["R"][i] = beta2 * state["R"][i] + (1 - beta2) * total
    for j in range(columns):
        total = sum(gradient[i][j] ** 2 + 1e-30 for i in range(rows))
        state["C"][j] = beta2 * state["C"][j] + (1 - beta2) * total
    whole = sum(state["R"])
    update = torch.empty_like(weight)
    for i in range(rows):
        for j in range(columns):
            update[i, j] = gradient[i][j] / math.sqrt(state["R"][i] * state["C"][j] / whole)
    rms = math.sqrt(sum(float(u) ** 2 for u in update.flatten()) / (rows * columns))
    for i in range(rows):
        for j in range(columns):
            step = lr * update[i, j] / max(1.0, rms / 1.0)
            state["M"][i, j] = beta1 * state["M"][i, j] + (1 - beta1) * step
            weight[i, j] += -lr * weight_decay * weight[i, j] - state["M"][i, j]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_matrices_follow_algorithm_4(weight_decay):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    ours, weight = torch.nn.Parameter(start.clone()), start.clone()
    optimizer = Adafactor([ours], lr=0.02, weight_decay=weight_decay)
    state = {"t": 0, "R": [0.0] * 5, "C": [0.0] * 3, "M": torch.zeros_like(weight)}
    for step in range(12):
        gradient = torch.randn(5, 3, generator=generator, dtype=torch.float64) * 10.0 ** (step % 4 - 2)
        ours.grad = gradient.clone()
        optimizer.step()
        reference_step(weight, gradient.tolist(), state, 0.02, weight_decay=weight_decay)
        torch.testing.assert_close(ours.detach(), weight, rtol=1e-12, atol=1e-12)
    assert (weight - start).abs().max() > 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_tensors_move_as_with_transformers(dtype):
    """50 steps, a zero gradient and gradients of very different sizes among them."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(*shape, generator=generator).to(dtype) for shape in SHAPES]
    ours, theirs = ([torch.nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    fixed = {"beta1": 0.9, "scale_parameter": False, "relative_step": False, "warmup_init": False}
    optimizers = (
        Adafactor(ours, lr=0.01, weight_decay=0.05),
        transformers.Adafactor(theirs, 0.01, weight_decay=0.05, **fixed),
    )
    for step in range(50):
        for mine, other in zip(ours, theirs, strict=True):
            scale = 0.0 if step == 7 else 10.0 ** (step % 5 - 3)
            mine.grad = ((torch.randn(mine.shape, generator=generator) + 1) * scale).to(dtype)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - step / 100)  # as a scheduler does
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        exact = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.01}
        torch.testing.assert_close(mine.detach(), other.detach(), **exact)
        assert (mine.detach() - before).abs().max() > 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_bit_for_bit(dtype, tmp_path):
    def make():
        generator = torch.Generator().manual_seed(2)
        weights = [torch.nn.Parameter(torch.randn(*shape, generator=generator).to(dtype)) for shape in SHAPES]
        return weights, Adafactor(weights, lr=0.01)

    def train(weights, optimizer, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator).to(dtype)
            optimizer.step()

    through, optimizer = make()
    train(through, optimizer, range(10))
    stopped, optimizer = make()
    train(stopped, optimizer, range(5))
    torch.save((stopped, optimizer.state_dict()), tmp_path / "saved.pt")
    loaded, state = torch.load(tmp_path / "saved.pt", weights_only=False)
    resumed = Adafactor(loaded, lr=1.0)
    resumed.load_state_dict(state)
    train(loaded, resumed, range(5, 10))
    for one, other in zip(through, loaded, strict=True):
        assert torch.equal(one, other)


def test_parameters_without_a_gradient_stay():
    frozen, trained = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(3, 2))
    trained.grad = torch.ones(3, 2)
    optimizer = Adafactor([frozen, trained], lr=0.1)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3, 2))
    assert frozen not in optimizer.state
    torch.testing.assert_close(trained.detach(), torch.full((3, 2), 0.99))  # 0.1 of momentum, 0.1 of learning rate
