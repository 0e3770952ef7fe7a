"""What the model writes behind its prompts while they train: outputs, their probabilities, and what they are worth.

Dimension letters: K outputs a target, B targets, T tokens of the longest target. Log-probabilities are in nats.

An output of a target of length T_i has at most T_i tokens; it ends with its first EOS, or is cut there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoical.decoding.sampling import drawn, likeliest
from stoical.soft_prompts.settings import Reward
from stoical.soft_prompts.step import Step, prefix_lengths, token_nll
from stoical.soft_prompts.targets import Targets


def greedy(step: Step) -> Tensor:
    """[1, B, T] what the model writes, the likeliest token each time."""
    return step.frozen.write(step.prompts.detach(), step.targets.tokens.shape[1], likeliest)[None]


def sampled(step: Step, count: int, forced: Tensor | None = None) -> Tensor:
    """[K, B, T] drawn outputs; the first `forced` [B] tokens of each are the target's."""
    length, rows = step.targets.tokens.shape[1], len(step.targets.lengths)
    numbers = step.uniform("outputs", count * length)  # position by position: the same whatever the batch's width
    uniform = numbers.view(rows, length, count).permute(2, 0, 1).flatten(0, 1)
    choose = drawn(uniform.cpu(), temperature=1.0)
    gold = step.targets.tokens.repeat(count, 1)
    led = torch.zeros(count * rows, dtype=torch.int64) if forced is None else forced.repeat(count)

    def next_token(position: int, logits: Tensor) -> Tensor:
        return gold[:, position].where(position < led.to(gold.device), choose(position, logits).to(gold.device))

    written = step.frozen.write(step.prompts.detach().repeat(count, 1, 1), length, next_token)
    return written.view(count, rows, length)


def output_mask(outputs: Tensor, targets: Targets, eos: int) -> Tensor:
    """[K, B, T] True at the tokens of each output: up to its first EOS and with it, within the target's length."""
    ended = (outputs == eos).long().cumsum(dim=-1) - (outputs == eos).long()
    return (ended == 0) & targets.mask


def output_logprobs(step: Step, outputs: Tensor) -> Tensor:
    """[K, B, T] log p of every token of the outputs [K, B, T], with the graph of a forward over all of them."""
    logits, _ = step.frozen.teacher_forced(step.prompts.repeat(len(outputs), 1, 1), outputs.flatten(0, 1))
    return -token_nll(logits, outputs.flatten(0, 1)).view_as(outputs)


def right_so_far(outputs: Tensor, targets: Targets) -> Tensor:
    """[K, B] how many tokens each output has in common with its target before the first that differs."""
    return prefix_lengths((outputs == targets.tokens) & targets.mask)


def rewards(outputs: Tensor, targets: Targets, kind: Reward) -> Tensor:
    """[K, B] from 0 to 1: the share of the target before the output's first error, or 1 for all of it and else 0."""
    right = right_so_far(outputs, targets)
    return (right == targets.lengths).float() if kind == "exact" else right / targets.lengths


def returns_to_go(outputs: Tensor, targets: Targets, kind: Reward) -> Tensor:
    """[K, B, T] what an output still earns from each token on.

    `exact` is earned at the end, `prefix` token by token, so that an output gains nothing after its first error.
    """
    total = rewards(outputs, targets, kind)[..., None]
    if kind == "exact":
        return total.expand(-1, -1, outputs.shape[2])
    columns = torch.arange(outputs.shape[2], device=outputs.device)
    before = torch.minimum(columns, right_so_far(outputs, targets)[..., None])
    return total - before / targets.lengths[:, None]
