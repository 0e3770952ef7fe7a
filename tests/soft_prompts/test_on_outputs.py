"""Objectives on the model's own outputs: by loops over single outputs, by enumeration, and by closed forms."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from stoical.soft_prompts import on_outputs
from stoical.soft_prompts.on_outputs import (
    at_first_error,
    minimum_risk,
    mixer,
    negatives,
    policy_loss,
    reinforce,
    unlikelihood,
)
from stoical.soft_prompts.outputs import greedy, output_mask, returns_to_go, rewards, sampled
from stoical.soft_prompts.settings import (
    MixerOptions,
    NegativesOptions,
    ReinforceOptions,
    RiskOptions,
    SoftPromptSettings,
    UnlikelihoodOptions,
)
from stoical.soft_prompts.targets import pad
from stoical.soft_prompts.teacher_forced import cross_entropy
from tests.support.soft_prompt_step import EOS, case, drawn, draws, next_logprobs, nll


def cut(output, length):
    """An output up to its first EOS, of at most `length` tokens."""
    kept = output[:length]
    return kept[: kept.index(EOS) + 1] if EOS in kept else kept


def reward_of(output, row, kind):
    same = next((t for t, (a, b) in enumerate(zip(output, row, strict=False)) if a != b), min(len(output), len(row)))
    return float(same == len(row)) if kind == "exact" else same / len(row)


def fixed(monkeypatch, outputs):
    """The drawn outputs are these, [K][B] lists of ids; what a row has beyond its end is never read."""
    width = max(len(row) for one in outputs for row in one)
    tensor = torch.tensor([[[*row, *[3] * (width - len(row))] for row in one] for one in outputs])
    monkeypatch.setattr(on_outputs, "sampled", lambda step, count, forced=None: tensor)


def test_drawn_outputs_by_a_loop():
    made = case()
    found, width = sampled(made.step, 3), made.targets.tokens.shape[1]
    for place in range(len(made.rows)):
        numbers = draws(made.step, "outputs", place, 3 * width)
        for k in range(3):
            written: list[int] = []
            for t in range(width):
                logprobs = next_logprobs(made.frozen, made.prompts[place].detach(), tuple(written))
                written.append(drawn(logprobs, numbers[t * 3 + k]))
            assert found[k, place].tolist() == written
    assert len({tuple(row) for row in found[:, 0].tolist()}) > 1


def test_the_first_tokens_may_be_forced_and_greedy_takes_the_likeliest():
    made = case()
    forced = torch.tensor([2, 1, 0, 4])
    found = sampled(made.step, 2, forced)
    for place, (row, led) in enumerate(zip(made.rows, forced.tolist(), strict=True)):
        assert found[0, place].tolist()[:led] == row[:led]
    for place, output in enumerate(greedy(made.step)[0].tolist()):
        for t, token in enumerate(output):
            logprobs = next_logprobs(made.frozen, made.prompts[place].detach(), tuple(output[:t]))
            assert token == max(range(len(logprobs)), key=lambda v: float(logprobs[v].detach()))


@pytest.mark.parametrize("kind", ["prefix", "exact"])
def test_rewards_and_returns_by_hand(kind):
    targets = pad([[1, 2, EOS], [4, EOS]])
    outputs = torch.tensor([[[1, 2, EOS], [4, EOS, 7]], [[1, 3, EOS], [EOS, 4, 4]], [[1, 2, 2], [4, 4, 4]]])
    right = [[3, 2], [1, 0], [2, 1]]
    whole = [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    wanted = torch.tensor(whole) if kind == "exact" else torch.tensor(right) / torch.tensor([3, 2])
    torch.testing.assert_close(rewards(outputs, targets, kind), wanted)
    returns = returns_to_go(outputs, targets, kind)
    torch.testing.assert_close(returns[..., 0], wanted)
    if kind == "prefix":
        torch.testing.assert_close(returns[2, 0], torch.tensor([2 / 3, 1 / 3, 0.0]))
    mask = output_mask(outputs, targets, EOS)
    assert mask.tolist() == [
        [[True, True, True], [True, True, False]],
        [[True, True, True], [True, False, False]],
        [[True, True, True], [True, True, False]],
    ]


@pytest.mark.parametrize("kind", ["prefix", "exact"])
def test_the_mean_over_all_pairs_of_outputs_is_the_exact_gradient(kind):
    """All 27^2 pairs of outputs of 3 tokens out of 3, with their probabilities."""
    made = case(rows=[[1, 2, EOS]], vocabulary=3)
    prompt, row = made.prompts, made.rows[0]
    every = list(itertools.product(range(3), repeat=3))
    logps = [-sum(nll(made.frozen, prompt[0], list(one))) for one in every]
    pairs = zip(logps, every, strict=True)
    objective = sum(logp.exp() * reward_of(cut(list(one), 3), row, kind) for logp, one in pairs)
    (exact,) = torch.autograd.grad(objective, prompt, retain_graph=True)
    mean = torch.zeros_like(prompt)
    for (i, first), (j, second) in itertools.product(enumerate(every), repeat=2):
        outputs = torch.tensor([[first], [second]])
        loss = policy_loss(made.step, outputs, torch.zeros(1, dtype=torch.int64), kind)
        (gradient,) = torch.autograd.grad(loss.sum() * 3, prompt, retain_graph=True)  # 3: the target's length
        mean -= (logps[i] + logps[j]).exp().detach() * gradient
    torch.testing.assert_close(mean, exact, rtol=1e-6, atol=1e-8)
    assert exact.abs().max() > 1e-3


OUTPUTS = [  # K = 3, of the four targets
    [[1, 2, 3, 1, EOS], [4, EOS], [2, 2, EOS], [3, EOS]],
    [[1, 2, 4, 4, 4], [EOS], [2, 2, 2], [3, 1, 2, EOS]],
    [[1, 2, 4, 4, 4], [4, 4], [1, EOS], [3, 1, 4, 1]],
]


@pytest.mark.parametrize("kind", ["prefix", "exact"])
def test_reinforce_by_loops(monkeypatch, kind):
    made = case()
    fixed(monkeypatch, OUTPUTS)
    settings = SoftPromptSettings(reinforce=ReinforceOptions(weight=0.7, samples=3, reward=kind))

    def togo(output, row, t):
        earned = min(t, next((i for i, (a, b) in enumerate(zip(output, row, strict=False)) if a != b), len(row)))
        return reward_of(output, row, kind) - (earned / len(row) if kind == "prefix" else 0.0)

    def expected(place, prompt, row):
        outputs = [cut(one[place], len(row)) for one in OUTPUTS]
        total = 0.0
        for k, output in enumerate(outputs):
            for t, loss in enumerate(nll(made.frozen, prompt, output)):
                others = [togo(other, row, t) for o, other in enumerate(outputs) if o != k]
                total = total + (togo(output, row, t) - sum(others) / 2) * loss / 3 / len(row)
        return sum(nll(made.frozen, prompt, row)) / len(row) + 0.7 * total

    made.check(reinforce, settings, expected)


def test_mixer_begins_as_teacher_forcing_and_ends_as_reinforce_alone(monkeypatch):
    settings = SoftPromptSettings(mixer=MixerOptions(warmup=0.5, stage=0.1, samples=3))
    early = case(number=4)
    assert mixer(early.step, settings).item() == cross_entropy(early.step, settings).item()
    late = case(number=99, steps=100)
    fixed(monkeypatch, OUTPUTS)
    alone = policy_loss(late.step, on_outputs.sampled(late.step, 3), torch.zeros(4, dtype=torch.int64), "prefix")
    assert mixer(late.step, settings).item() == pytest.approx(alone.sum().item())


def test_mixer_teaches_all_but_the_last_tokens(monkeypatch):
    """At step 7 of 10 the last three tokens are the model's: forced, and taught, are 2, 0, 0 and 1."""
    made = case(number=7)
    settings = SoftPromptSettings(mixer=MixerOptions(warmup=0.5, stage=0.1, samples=3))
    fixed(monkeypatch, OUTPUTS)
    forced = [2, 0, 0, 1]
    term = policy_loss(made.step, on_outputs.sampled(made.step, 3), torch.tensor(forced), "prefix").sum()
    taught = sum(
        sum(nll(made.frozen, prompt, row)[:led]) / len(row)
        for prompt, row, led in zip(made.prompts, made.rows, forced, strict=True)
    )
    assert mixer(made.step, settings).item() == pytest.approx((taught + term).item())


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_minimum_risk_by_loops(monkeypatch, alpha):
    """An output that is drawn twice, or is the target, counts once."""
    made = case()
    fixed(monkeypatch, OUTPUTS)
    settings = SoftPromptSettings(minimum_risk=RiskOptions(weight=0.5, samples=3, alpha=alpha))

    def expected(place, prompt, row):
        different = dict.fromkeys([tuple(row), *(tuple(cut(one[place], len(row))) for one in OUTPUTS)])
        odds = {one: torch.exp(-alpha * sum(nll(made.frozen, prompt, list(one)))) for one in different}
        risk = sum(odds[one] * (1 - reward_of(list(one), row, "prefix")) for one in odds) / sum(odds.values())
        return sum(nll(made.frozen, prompt, row)) / len(row) + 0.5 * risk

    made.check(minimum_risk, settings, expected)


def test_minimum_risk_of_the_target_alone_has_no_gradient(monkeypatch):
    made = case()
    fixed(monkeypatch, [made.rows])
    settings = SoftPromptSettings(minimum_risk=RiskOptions(samples=1))
    own, plain = (torch.autograd.grad(f(made.step, settings), made.prompts, retain_graph=True)[0]
                  for f in (minimum_risk, cross_entropy))  # fmt: skip
    torch.testing.assert_close(own, plain)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_negatives_by_loops(monkeypatch, seed):
    made = case(seed=seed)
    fixed(monkeypatch, OUTPUTS)
    settings = SoftPromptSettings(negatives=NegativesOptions(weight=0.5, samples=3))
    own = greedy(made.step)[0].tolist()

    def score(prompt, output):
        return -sum(nll(made.frozen, prompt, output)) / len(output)

    def expected(place, prompt, row):
        outputs = [cut(one, len(row)) for one in (own[place], *(one[place] for one in OUTPUTS))]
        wrong = [output for output in outputs if output != row]
        pairs = [-torch.nn.functional.logsigmoid(score(prompt, row) - score(prompt, output)) for output in wrong]
        return sum(nll(made.frozen, prompt, row)) / len(row) + 0.5 * sum(pairs) / max(1, len(wrong))

    made.check(negatives, settings, expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unlikelihood_by_loops(seed):
    made = case(seed=seed)
    settings = SoftPromptSettings(unlikelihood=UnlikelihoodOptions(weight=0.5))
    own = greedy(made.step)[0].tolist()
    kinds = set()

    def expected(place, prompt, row):
        punished = 0.0
        for t, token in enumerate(row):
            logprobs = next_logprobs(made.frozen, prompt, tuple(row[:t]))
            best = max(range(len(logprobs)), key=lambda v: float(logprobs[v].detach()))
            if best != token:
                punished = punished - torch.log1p(-torch.exp(logprobs[best]))
                kinds.add("first error")
                break
        output = cut(own[place], len(row))
        for t, token in enumerate(output):
            if output[: t + 1].count(token) > row.count(token):
                logprob = next_logprobs(made.frozen, prompt, tuple(output[:t]))[token]
                punished = punished - torch.log1p(-torch.exp(logprob))
                kinds.add("repeated")
        return sum(nll(made.frozen, prompt, row)) / len(row) + 0.5 * punished / len(row)

    made.check(unlikelihood, settings, expected)
    assert kinds == {"first error", "repeated"}


def test_the_target_is_not_punished_where_it_ties():
    step = case(rows=[[3, 1, EOS]]).step
    logits = torch.zeros_like(step.logits)
    logits[0, 0, [3, 4]] = 3.0  # argmax takes the first of the two, the target's
    _, (place, token), _ = at_first_error(replace(step, logits=logits))
    assert (place.tolist(), token.tolist()) == ([0], [4])


def test_where_nothing_is_wrong_only_cross_entropy_is_left():
    """Targets that the model writes anyway."""
    many = case(rows=[[1] * 5 + [EOS]] * 40)
    outputs = [cut(row, 6) for row in greedy(many.step)[0].tolist()]
    kept = [place for place, output in enumerate(outputs) if output[-1] == EOS]
    assert len(kept) >= 3
    prompts, targets = many.prompts[kept], pad([outputs[place] for place in kept])
    logits, _ = many.frozen.teacher_forced(prompts, targets.tokens)
    seeds = [many.step.seeds[place] for place in kept]
    step = replace(many.step, prompts=prompts, targets=targets, logits=logits, seeds=seeds)
    plain = float(cross_entropy(step, SoftPromptSettings()))
    assert float(unlikelihood(step, SoftPromptSettings())) == plain
    assert float(negatives(step, SoftPromptSettings(negatives=NegativesOptions(samples=0)))) == plain
