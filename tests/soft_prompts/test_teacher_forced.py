"""Objectives on the teacher-forced forward: values and gradients by loops, one forward a prefix, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.soft_prompts.settings import MarginOptions, SoftPromptSettings, WorstOptions
from stoical.soft_prompts.step import prefix_lengths, token_margins
from stoical.soft_prompts.teacher_forced import cross_entropy, first_error, growing, margin, worst_position
from tests.support.soft_prompt_step import case, next_logprobs, nll


def likeliest(frozen, prompt, row):
    """The model's argmax after each prefix of a target."""
    found = []
    for place in range(len(row)):
        logprobs = [float(value) for value in next_logprobs(frozen, prompt, tuple(row[:place]))]
        found.append(max(range(len(logprobs)), key=logprobs.__getitem__))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_cross_entropy(seed):
    made = case(seed=seed)
    made.check(cross_entropy, SoftPromptSettings(), lambda _, p, row: sum(nll(made.frozen, p, row)) / len(row))


@pytest.mark.parametrize("width", [0.5, 4.0])
def test_margin(width):
    made = case()

    def expected(_, prompt, row):
        total = 0.0
        for place, token in enumerate(row):
            logits = next_logprobs(made.frozen, prompt, tuple(row[:place]))
            best = max((v for v in range(len(logits)) if v != token), key=lambda v: float(logits[v].detach()))
            total = total + torch.clamp(width - (logits[token] - logits[best]), min=0)
        return total / len(row)

    made.check(margin, SoftPromptSettings(margin=MarginOptions(width)), expected)


@pytest.mark.parametrize("tau", [0.05, 2.0])
def test_worst_position(tau):
    made = case()
    settings = SoftPromptSettings(worst_position=WorstOptions(tau))

    def expected(_, prompt, row):
        return tau * torch.log(sum(torch.exp(loss / tau) for loss in nll(made.frozen, prompt, row)))

    made.check(worst_position, settings, expected)


def test_the_worst_position_is_the_largest_loss_at_a_small_temperature():
    made = case()
    found = worst_position(made.step, SoftPromptSettings(worst_position=WorstOptions(1e-4)))
    worst = sum(max(nll(made.frozen, p, row)) for p, row in zip(made.prompts, made.rows, strict=True))
    assert float(found) == pytest.approx(float(worst), abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_first_error(seed):
    made = case(seed=seed)
    cut = []

    def expected(_, prompt, row):
        wrong = [t for t, best in enumerate(likeliest(made.frozen, prompt, row)) if best != row[t]]
        upto = (wrong[0] if wrong else len(row) - 1) + 1
        cut.append(upto)
        return sum(nll(made.frozen, prompt, row)[:upto]) / upto

    made.check(first_error, SoftPromptSettings(), expected)
    assert len(set(cut)) > 1  # rows differ in where they go wrong


def test_growing():
    reached = [2, 0, 3, 9]  # the last two: all of the target
    made = case(reached=reached)

    def expected(place, prompt, row):
        upto = min(reached[place] + 1, len(row))
        return sum(nll(made.frozen, prompt, row)[:upto]) / upto

    made.check(growing, SoftPromptSettings(), expected)


def test_margins_and_prefixes_by_hand():
    logits = torch.tensor([[[1.0, 3.0, 2.0], [5.0, 5.0, 0.0], [0.0, 1.0, 9.0]]])
    tokens = torch.tensor([[1, 0, 2]])
    assert token_margins(logits, tokens).tolist() == [[1.0, 0.0, 8.0]]  # a tie is no lead
    assert prefix_lengths(token_margins(logits, tokens) > 0).tolist() == [1]
    assert math.isfinite(float(token_margins(logits * 1000, tokens).sum()))
