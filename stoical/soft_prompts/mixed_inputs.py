"""Scheduled sampling (Bengio et al. 2015) in front of a frozen model: the target, after inputs that it half wrote.

Dimension letters: B targets, L = T - 1 inputs of the longest, T its tokens, V vocabulary, H hidden size.

The first pass is the teacher-forced one; the model's token for a position is what it would have written there
(two-pass, Mihaylova and Martins 2019), and carries no gradient. Off the target there is no right next token to ask
for: the target's is asked for, whatever the prefix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoical.decoding.draws import drawn_tokens
from stoical.objectives.mitigations.mixed_walks import Confidence
from stoical.objectives.mitigations.schedules import gold_at
from stoical.soft_prompts.settings import SamplingOptions, SoftPromptSettings
from stoical.soft_prompts.step import Step, masked_mean, token_nll
from stoical.soft_prompts.teacher_forced import cross_entropy


def scheduled_sampling(step: Step, settings: SoftPromptSettings) -> Tensor:
    """The mean over a target's tokens of -log p after mixed inputs; with a gold probability of 1, teacher forcing."""
    own = settings.scheduled_sampling
    gold = gold_at(own, step.number, step.steps)
    if gold >= 1 or step.targets.tokens.shape[1] == 1:
        return cross_entropy(step, settings)
    logits, _ = step.frozen.forward(step.prompts, fed(step, own, gold))
    return masked_mean(token_nll(logits, step.targets.tokens), step.targets.mask).sum()


def fed(step: Step, own: SamplingOptions, gold: float) -> Tensor:
    """[B, L, H] the inputs as embeddings; where `tokens=soft`, the model's are means of embeddings by its p."""
    tokens, ours = mixed(step, own, gold)
    embedded = step.frozen.embed(tokens)
    if own.tokens != "soft":
        return embedded
    p = step.logits.detach()[:, :-1].softmax(dim=-1)
    table = step.frozen.embed(torch.arange(p.shape[-1], device=p.device)[None])[0]
    return torch.where(ours[..., None], (p.to(table.dtype) @ table), embedded)


def mixed(step: Step, own: SamplingOptions, gold: float) -> tuple[Tensor, Tensor]:
    """[B, L] the inputs, and where they are the model's: the target's token with probability `gold`, else its own.

    Or what `Confidence` says. Every target has random numbers of its own, the same whatever stands beside it.
    """
    inputs, logits = step.targets.tokens[:, :-1], step.logits.detach()[:, :-1]
    length = inputs.shape[1]
    ours = step.uniform("replaced", length) >= gold
    model = _tokens(step, own, logits)
    if own.gold_confidence is None or own.random_confidence is None:
        return model.where(ours, inputs), ours
    sure = (-token_nll(logits, inputs)).exp()
    predicted, scrambled = Confidence(own.gold_confidence, own.random_confidence).choice(ours, sure)
    place = (step.uniform("random", length) * step.targets.lengths[:, None]).long()
    anything = step.targets.tokens.gather(1, place)
    return model.where(predicted, anything.where(scrambled, inputs)), predicted


def _tokens(step: Step, own: SamplingOptions, logits: Tensor) -> Tensor:
    """[B, L] the model's token at each position, after the target's prefix."""
    if own.tokens != "sampled":
        return logits.argmax(dim=-1)
    uniform = step.uniform("drawn", logits.shape[1]).flatten().cpu()
    return drawn_tokens(logits.flatten(0, 1), uniform, temperature=1.0).view(logits.shape[:2]).to(logits.device)
