"""A causal model of a few numbers, in float64, in the frozen one's place: objectives on prompts are tested on it.

Dimension letters: R rows, n vectors, L tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from stoical.decoding.draws import uniform_draws
from stoical.soft_prompts.settings import SoftPromptSettings
from stoical.soft_prompts.step import Step
from stoical.soft_prompts.targets import Targets, pad

EOS = 0
VOCAB, HIDDEN, VECTORS = 5, 4, 2


class SmallFrozen:
    """s_0 = the prompt's mean, s_t = tanh(A s_{t-1} + E(y_t)), logits = U s_t."""

    eos = EOS

    def __init__(self, vocabulary: int = VOCAB) -> None:
        random = torch.Generator().manual_seed(1)
        self.mix, self.out, table = (
            torch.randn(*shape, generator=random, dtype=torch.float64)
            for shape in ((HIDDEN, HIDDEN), (HIDDEN, vocabulary), (vocabulary, HIDDEN))
        )
        self.embed = nn.Embedding.from_pretrained(table)

    def forward(self, prompts, fed, hidden=False):
        embedded = fed if fed.is_floating_point() else self.embed(fed)
        states = [prompts.mean(dim=1)]
        for step in range(embedded.shape[1]):
            states.append(torch.tanh(states[-1] @ self.mix + embedded[:, step]))
        stacked = torch.stack(states, dim=1)
        return stacked @ self.out, stacked if hidden else None

    def teacher_forced(self, prompts, tokens, hidden=False):
        return self.forward(prompts, tokens[:, :-1], hidden)

    @torch.no_grad()
    def write(self, prompts, steps, choose):
        written = torch.zeros(len(prompts), 0, dtype=torch.int64)
        for step in range(steps):
            logits = self.forward(prompts, written)[0][:, -1]
            written = torch.cat([written, choose(step, logits)[:, None]], dim=1)
        return written


def next_logprobs(frozen: SmallFrozen, prompt: torch.Tensor, prefix: tuple[int, ...]) -> list[torch.Tensor]:
    """log p of every token after `prefix`, behind a prompt [n, H]: a forward of its own for one prefix."""
    state = prompt.mean(dim=0)
    for token in prefix:
        state = torch.tanh(state @ frozen.mix + frozen.embed.weight[token])
    logits = list(state @ frozen.out)
    total = torch.logsumexp(torch.stack(logits), dim=0)
    return [value - total for value in logits]


def nll(frozen: SmallFrozen, prompt: torch.Tensor, tokens: list[int], prefix: list[int] | None = None) -> list:
    """-log p of each of `tokens` after the tokens before it (or before it in `prefix`)."""
    before = tokens if prefix is None else prefix
    return [-next_logprobs(frozen, prompt, tuple(before[:t]))[token] for t, token in enumerate(tokens)]


@dataclass
class Case:
    """Targets of several lengths, prompts that want gradients, and the step made of them."""

    frozen: SmallFrozen
    rows: list[list[int]]
    prompts: torch.Tensor
    targets: Targets
    step: Step

    def check(self, objective, settings: SoftPromptSettings, expected, **close: float) -> None:
        """The objective is `expected` (a function of a prompt and its target's ids), summed, with its gradient."""
        found = objective(self.step, settings)
        (gradient,) = torch.autograd.grad(found, self.prompts)
        total = sum(expected(place, self.prompts[place], row) for place, row in enumerate(self.rows))
        (wanted,) = torch.autograd.grad(total, self.prompts)
        tolerance = {"rtol": 1e-6, "atol": 1e-7} | close
        torch.testing.assert_close(found, total, **tolerance)
        torch.testing.assert_close(gradient, wanted, **tolerance)
        assert gradient.abs().max() > 1e-3


def case(rows=None, reached=None, number=0, steps=10, seed=0, vocabulary=VOCAB) -> Case:
    """Ragged targets that end with EOS."""
    rows = rows or [[1, 2, 3, 1, EOS], [4, EOS], [2, 2, EOS], [3, 1, 4, EOS]]
    frozen, random = SmallFrozen(vocabulary), torch.Generator().manual_seed(seed)
    prompts = torch.randn(len(rows), VECTORS, HIDDEN, generator=random, dtype=torch.float64).requires_grad_()
    targets = pad(rows)
    logits, hidden = frozen.teacher_forced(prompts, targets.tokens, hidden=True)
    known = torch.tensor(reached or [0] * len(rows))
    seeds = [f"{seed} {row}" for row in rows]
    step = Step(frozen, prompts, targets, logits, hidden, known, number, steps, seeds)
    return Case(frozen, rows, prompts, targets, step)


def draws(step: Step, what: str, row: int, count: int) -> list[float]:
    """The numbers that `step.uniform` has for a row."""
    return uniform_draws([f"{step.seeds[row]} {what}"], count)[0].tolist()


def drawn(logprobs: list[torch.Tensor], uniform: float) -> int:
    """The token that a number draws: where the cumulative distribution passes it."""
    passed, weights = 0.0, [math.exp(float(value)) for value in logprobs]
    for token, weight in enumerate(weights):
        passed += weight
        if uniform * sum(weights) < passed:
            return token
    return len(weights) - 1
