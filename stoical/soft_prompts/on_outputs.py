"""Objectives on the model's own outputs: REINFORCE, MIXER, minimum risk, unlikelihood and negative sequences.

Dimension letters: K outputs a target, B targets, T tokens of the longest target, V vocabulary. Log-probabilities are in
nats. Sums over a target's tokens are divided by its length, so that all terms have the scale of the mean cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoical.objectives.mitigations.margin import pair_losses
from stoical.objectives.mitigations.mixer import own_tokens
from stoical.objectives.mitigations.reinforce import leave_one_out
from stoical.objectives.mitigations.schedules import in_steps
from stoical.objectives.mitigations.unlikelihood import unlikelihood as token_unlikelihood
from stoical.soft_prompts.outputs import (
    greedy,
    output_logprobs,
    output_mask,
    returns_to_go,
    rewards,
    right_so_far,
    sampled,
)
from stoical.soft_prompts.settings import Reward, SoftPromptSettings
from stoical.soft_prompts.step import Step, prefix_lengths, token_margins, token_nll
from stoical.soft_prompts.targets import Targets
from stoical.soft_prompts.teacher_forced import cross_entropy, mean_nll


def policy_loss(step: Step, outputs: Tensor, forced: Tensor, reward: Reward) -> Tensor:
    """[B] the mean over outputs of -sum_t (R_t - b_t) log p_t / T_i, from step `forced` [B] on.

    R_t is what the output earns from token t on, b_t the mean of what the other outputs do (Kool et al. 2019).
    """
    returns = returns_to_go(outputs, step.targets, reward)
    advantage = returns - leave_one_out(returns)
    columns = torch.arange(outputs.shape[2], device=outputs.device)
    own = output_mask(outputs, step.targets, step.frozen.eos) & (columns >= forced[:, None])
    terms = torch.where(own, advantage * output_logprobs(step, outputs), 0.0)
    return -terms.sum(dim=2).mean(dim=0) / step.targets.lengths


def reinforce(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Cross-entropy, and REINFORCE (Williams 1992) on outputs drawn from the start."""
    own, nothing = settings.reinforce, torch.zeros_like(step.targets.lengths)
    term = policy_loss(step, sampled(step, own.samples), nothing, own.reward)
    return cross_entropy(step, settings) + own.weight * term.sum()


def mixer(step: Step, settings: SoftPromptSettings) -> Tensor:
    """MIXER (Ranzato et al. 2016): cross-entropy on the first s tokens, REINFORCE behind them, s falling to 0."""
    own, targets = settings.mixer, step.targets
    warmup, stage = in_steps(own.warmup, step.steps), in_steps(own.stage, step.steps)
    forced = (targets.lengths - own_tokens(step.number, warmup, stage)).clamp(min=0)
    columns = torch.arange(targets.tokens.shape[1], device=forced.device)
    taught = torch.where(columns < forced[:, None], token_nll(step.logits, targets.tokens), 0.0)
    loss = (taught.sum(dim=1) / targets.lengths).sum()
    if bool((forced == targets.lengths).all()):
        return loss
    return loss + policy_loss(step, sampled(step, own.samples, forced), forced, own.reward).sum()


def minimum_risk(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Cross-entropy, and the expected risk of the target and some outputs (Shen et al. 2016): sum_S Q (1 - R).

    Q is proportional to p^alpha over the set S of the target and the drawn outputs, each counted once.
    """
    own, targets = settings.minimum_risk, step.targets
    outputs = torch.cat([targets.tokens[None], sampled(step, own.samples)])
    counted = output_mask(outputs, targets, step.frozen.eos)
    scores = torch.where(counted, output_logprobs(step, outputs), 0.0).sum(dim=2)
    doubles = repeated(outputs, counted)
    q = (own.alpha * scores).masked_fill(doubles, -torch.inf).softmax(dim=0)
    risk = (q * (1 - rewards(outputs, targets, own.reward))).sum()
    return cross_entropy(step, settings) + own.weight * risk


def repeated(outputs: Tensor, counted: Tensor) -> Tensor:
    """[K, B] True where an output's `counted` tokens are those of an earlier one."""
    rows = torch.where(counted, outputs, -1)
    same = (rows[:, None] == rows[None]).all(dim=-1)  # [K, K, B]
    earlier = torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device).tril(-1)
    return (same & earlier[..., None]).any(dim=1)


def unlikelihood(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Cross-entropy, and -log(1 - p) of tokens that should not come (Welleck et al. 2019).

    Those are the model's token at its first error, after the target's prefix, and in what it writes by itself every
    token that it has by then written more often than the target has it.
    """
    targets, weight = step.targets, settings.unlikelihood.weight
    wrong = token_unlikelihood(*at_first_error(step))
    outputs = greedy(step)
    too_often = _too_often(outputs[0], targets) & output_mask(outputs, targets, step.frozen.eos)[0]
    if too_often.any():
        logits, _ = step.frozen.teacher_forced(step.prompts, outputs[0])
        place, column = too_often.nonzero(as_tuple=True)
        candidates = torch.arange(len(place), device=place.device), outputs[0][place, column]
        logprobs = logits[place, column].log_softmax(dim=-1)
        wrong = wrong + token_unlikelihood(logprobs, candidates, 1 / targets.lengths[place])
    return cross_entropy(step, settings) + weight * wrong


def at_first_error(step: Step) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Next-token log-probabilities at each first error, the (place, token) that is the likeliest there, and weights.

    The target's own token is never the one, not even where it ties with the likeliest, as logits of bfloat16 do.
    """
    targets = step.targets
    first = prefix_lengths(token_margins(step.logits.detach(), targets.tokens) > 0)
    rows = (first < targets.lengths).nonzero()[:, 0]
    logits = step.logits[rows, first[rows]]
    others = logits.detach().scatter(1, targets.tokens[rows, first[rows]][:, None], -torch.inf)
    candidates = torch.arange(len(rows), device=rows.device), others.argmax(dim=-1)
    return logits.log_softmax(dim=-1), candidates, 1 / targets.lengths[rows]


def _too_often(outputs: Tensor, targets: Targets) -> Tensor:
    """[B, T] True where a token of `outputs` [B, T] has been written more often by then than the target has it."""
    same = outputs[:, :, None] == outputs[:, None, :]
    written = same.tril().sum(dim=2)
    wanted = ((outputs[:, :, None] == targets.tokens[:, None, :]) & targets.mask[:, None]).sum(dim=2)
    return written > wanted


def negatives(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Cross-entropy, and the mean over wrong outputs y- of -log sigmoid(s(y) - s(y-)), s the mean log p of a token."""
    own, targets = settings.negatives, step.targets
    outputs = greedy(step) if own.samples == 0 else torch.cat([greedy(step), sampled(step, own.samples)])
    wrong = right_so_far(outputs, targets) < targets.lengths
    if not wrong.any():
        return cross_entropy(step, settings)
    counted = output_mask(outputs, targets, step.frozen.eos)
    scores = torch.where(counted, output_logprobs(step, outputs), 0.0).sum(dim=2) / counted.sum(dim=2)
    losses = torch.where(wrong, pair_losses(-mean_nll(step) - scores, "logistic", None), 0.0)
    term = losses.sum(dim=0) / wrong.sum(dim=0).clamp(min=1)
    return cross_entropy(step, settings) + own.weight * term.sum()
