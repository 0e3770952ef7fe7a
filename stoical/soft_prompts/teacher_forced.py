"""Objectives that read the teacher-forced forward alone: what every position loses, and which positions count.

Dimension letters: B targets, T tokens of the longest, V vocabulary.

Greedy decoding writes the target exactly where, after every prefix of the target, the target's token is the likeliest.
So nothing more than this forward is needed for it, but the mean cross-entropy is not the thing to minimise: one wrong
position at the start costs the whole text, and little of the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoical.objectives.mitigations.margin import pair_losses
from stoical.soft_prompts.settings import SoftPromptSettings
from stoical.soft_prompts.step import Step, masked_mean, prefix_lengths, token_margins, token_nll


def mean_nll(step: Step) -> Tensor:
    """[B] the mean over each target's tokens of -log p; nats."""
    return masked_mean(token_nll(step.logits, step.targets.tokens), step.targets.mask)


def cross_entropy(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Teacher forcing: the mean over a target's tokens of -log p."""
    return mean_nll(step).sum()


def margin(step: Step, settings: SoftPromptSettings) -> Tensor:
    """The mean over a target's tokens of max(0, margin - (z_y - max_{v != y} z_v)); in units of logits."""
    differences = token_margins(step.logits, step.targets.tokens)
    losses = pair_losses(differences, "hinge", settings.margin.margin)
    return masked_mean(losses, step.targets.mask).sum()


def worst_position(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Tau log sum_t exp(CE_t / tau): a smooth maximum over the target's positions of -log p."""
    tau = settings.worst_position.temperature
    losses = token_nll(step.logits, step.targets.tokens) / tau
    return tau * losses.masked_fill(~step.targets.mask, -torch.inf).logsumexp(dim=1).sum()


def first_error(step: Step, settings: SoftPromptSettings) -> Tensor:
    """The mean of -log p over the tokens up to the first that is not the likeliest, and with it; all, if all are."""
    right = token_margins(step.logits.detach(), step.targets.tokens) > 0
    return _up_to(step, prefix_lengths(right) + 1)


def growing(step: Step, settings: SoftPromptSettings) -> Tensor:
    """The mean of -log p over the longest prefix that was right so far, and one token more.

    The curriculum of progressive cramming: a token is added once all tokens before it are the likeliest ones, and stays
    when they no longer are.
    """
    return _up_to(step, step.reached + 1)


def _up_to(step: Step, lengths: Tensor) -> Tensor:
    columns = torch.arange(step.targets.tokens.shape[1], device=lengths.device)
    kept = step.targets.mask & (columns < lengths[:, None])
    return masked_mean(token_nll(step.logits, step.targets.tokens), kept).sum()
