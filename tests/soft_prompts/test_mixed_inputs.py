"""Scheduled sampling on prompts: inputs by a loop with the same random numbers, loss and gradient after them."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.soft_prompts.mixed_inputs import fed, mixed, scheduled_sampling
from stoical.soft_prompts.settings import SamplingOptions, SoftPromptSettings
from stoical.soft_prompts.teacher_forced import cross_entropy
from tests.support.soft_prompt_step import case, drawn, draws, next_logprobs, nll

KINDS = {
    "argmax": SamplingOptions("constant", None, 0.4),
    "sampled": SamplingOptions("constant", None, 0.4, tokens="sampled"),
    "confidence": SamplingOptions("constant", None, 0.0, gold_confidence=0.15, random_confidence=0.3),
    "linear": SamplingOptions("linear", 0.5, 0.0),
}


def inputs_of(made, own, gold, place, row, width):
    """The inputs of a row: the choice at each position, by its probabilities and the row's own numbers."""
    step, prompt = made.step, made.prompts[place].detach()
    replaced = draws(step, "replaced", place, width)
    random, numbers = draws(step, "random", place, width), draws(step, "drawn", place, width)
    found = []
    for t in range(len(row) - 1):
        logprobs = next_logprobs(made.frozen, prompt, tuple(row[:t]))
        best = max(range(len(logprobs)), key=lambda v: float(logprobs[v]))
        model = best if own.tokens == "argmax" else drawn(logprobs, numbers[t])
        sure = math.exp(float(logprobs[row[t]]))
        if replaced[t] < gold or (own.gold_confidence is not None and sure <= own.gold_confidence):
            found.append(row[t])
        elif own.random_confidence is not None and sure > own.random_confidence:
            found.append(row[int(random[t] * len(row))])
        else:
            found.append(model)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_inputs_loss_and_gradient_by_a_loop(kind, seed):
    own = KINDS[kind]
    made = case(number=6, seed=seed)  # of 10 steps: linear, 0.5 at step 5, is 0.4
    width = made.targets.tokens.shape[1] - 1
    inputs = [inputs_of(made, own, 0.0 if kind == "confidence" else 0.4, place, row, width)
              for place, row in enumerate(made.rows)]  # fmt: skip
    found = mixed(made.step, own, 0.0 if kind == "confidence" else 0.4)[0].tolist()
    assert [row[: len(mine)] for row, mine in zip(found, inputs, strict=True)] == inputs
    assert any(mine != row[:-1] for mine, row in zip(inputs, made.rows, strict=True))
    settings = SoftPromptSettings(scheduled_sampling=own)
    made.check(
        scheduled_sampling, settings, lambda i, p, row: sum(nll(made.frozen, p, row, prefix=inputs[i])) / len(row)
    )


def test_confidence_feeds_all_three_kinds_of_token():
    own, kinds = KINDS["confidence"], set()
    for seed in range(6):
        made = case(seed=seed)
        sure = (made.step.logits.log_softmax(-1).gather(-1, made.targets.tokens[..., None])[..., 0]).exp()
        inner = made.targets.mask[:, 1:]
        kinds |= set(torch.bucketize(sure[:, :-1][inner].detach(), torch.tensor([0.15, 0.3]).double()).tolist())
    assert kinds == {0, 1, 2}, own


def test_a_gold_probability_of_one_is_teacher_forcing_to_the_bit():
    made = case()
    settings = SoftPromptSettings(scheduled_sampling=SamplingOptions("constant", None, 1.0))
    assert scheduled_sampling(made.step, settings).item() == cross_entropy(made.step, settings).item()


def test_the_schedule_is_in_shares_of_the_phase():
    made = case(number=0)
    settings = SoftPromptSettings(scheduled_sampling=SamplingOptions("linear", 0.5, 0.0))
    assert scheduled_sampling(made.step, settings).item() == cross_entropy(made.step, settings).item()
    late = case(number=9)
    assert scheduled_sampling(late.step, settings).item() != pytest.approx(cross_entropy(late.step, settings).item())


@pytest.mark.parametrize("thresholds", [(None, None), (0.1, 0.6)])
def test_soft_inputs_are_means_of_embeddings_by_a_loop(thresholds):
    own = SamplingOptions("constant", None, 0.3, "soft", *thresholds)
    made = case()
    tokens, ours = mixed(made.step, own, 0.3)
    found, table = fed(made.step, own, 0.3), made.frozen.embed.weight
    for place, row in enumerate(made.rows):
        for t in range(len(row) - 1):
            mean = torch.zeros_like(table[0])
            for token, logprob in enumerate(next_logprobs(made.frozen, made.prompts[place].detach(), tuple(row[:t]))):
                mean += math.exp(float(logprob)) * table[token]
            wanted = mean if ours[place, t] else table[tokens[place, t]]
            torch.testing.assert_close(found[place, t], wanted)
    assert ours[made.targets.mask[:, 1:]].any()
    assert not ours[made.targets.mask[:, 1:]].all()
    assert not found.requires_grad
    assert scheduled_sampling(made.step, SoftPromptSettings(scheduled_sampling=own)).requires_grad
