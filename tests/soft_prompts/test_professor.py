"""Professor forcing on prompts: the term and its gradient by hand, both gates, and who learns from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stoical.objectives.mitigations.discriminator import Opponent
from stoical.soft_prompts.outputs import greedy
from stoical.soft_prompts.professor import professor_forcing
from stoical.soft_prompts.settings import ProfessorOptions, SoftPromptSettings
from stoical.soft_prompts.teacher_forced import cross_entropy
from tests.support.soft_prompt_step import EOS, HIDDEN, case


def prepared(accuracy: float):
    torch.manual_seed(0)
    opponent = Opponent(HIDDEN, 6, 1e-2, torch.device("cpu"))
    opponent.accuracy = accuracy
    made = case()
    return made, replace(made.step, opponent=opponent), opponent


def gradient(loss, made):
    return torch.autograd.grad(loss, made.prompts, retain_graph=True)[0]


def test_a_weak_discriminator_teaches_nothing():
    made, step, _ = prepared(accuracy=0.5)
    settings = SoftPromptSettings()
    found = professor_forcing(step, settings)
    assert found.item() == cross_entropy(step, settings).item()
    assert torch.equal(gradient(found, made), gradient(cross_entropy(step, settings), made))


def test_the_term_by_hand():
    made, step, opponent = prepared(accuracy=0.9)
    settings = SoftPromptSettings(professor_forcing=ProfessorOptions(weight=0.5))
    found = professor_forcing(step, settings)
    total = cross_entropy(step, settings)
    for place, row in enumerate(greedy(made.step)[0].tolist()):
        own = row[: len(made.rows[place])]
        own = own[: own.index(EOS) + 1] if EOS in own else own
        _, states = made.frozen.teacher_forced(made.prompts[place][None], torch.tensor([own]), hidden=True)
        logit = opponent.module(states, torch.tensor([len(own)]))[0]
        total = total - 0.5 * torch.nn.functional.logsigmoid(logit)
    torch.testing.assert_close(found, total, check_dtype=False, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(found, made), gradient(total, made), rtol=1e-4, atol=1e-6)


def test_prompts_and_discriminator_do_not_learn_from_each_others_loss():
    made, step, opponent = prepared(accuracy=0.9)
    before = [weight.clone() for weight in opponent.module.parameters()]
    found = professor_forcing(step, SoftPromptSettings())
    assert made.prompts.grad is None  # the discriminator's own backward has reached no prompt
    own = [weight.grad.clone() for weight in opponent.module.parameters()]
    found.backward()
    assert all(torch.equal(weight.grad, kept) for weight, kept in zip(opponent.module.parameters(), own, strict=True))
    opponent.step(ceiling=0.99)
    assert any(not torch.equal(a, b) for a, b in zip(before, opponent.module.parameters(), strict=True))


@pytest.mark.parametrize("ceiling", [0.1, 0.99])
def test_a_discriminator_above_the_ceiling_does_not_learn(ceiling):
    _, step, opponent = prepared(accuracy=0.9)
    before = [weight.clone() for weight in opponent.module.parameters()]
    professor_forcing(step, SoftPromptSettings())
    opponent.step(ceiling)
    same = all(torch.equal(a, b) for a, b in zip(before, opponent.module.parameters(), strict=True))
    assert same == (ceiling == 0.1)
