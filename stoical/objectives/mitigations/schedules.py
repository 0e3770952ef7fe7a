"""How a probability or weight changes over the optimizer steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from stoical.common.numbers import within
from stoical.common.options import option

Schedule = Literal["constant", "linear", "exponential", "inverse_sigmoid"]


@dataclass
class ScheduleSettings:
    """How the probability of a gold token falls over the steps of a run (`gold_probability`)."""

    schedule: Schedule = option(
        "inverse_sigmoid",
        "of the probability of a gold token, from 1 down; constant is `minimum` from the first step on",
    )
    half_step: float | None = option(
        None, "the optimizer step at which it is 1/2 (every schedule but constant); below 1: a share of the run"
    )
    minimum: float = option(0.0, "which it never falls below")

    def check_schedule(self, name: str) -> None:
        """Raise `ValueError` where a setting of the section `name` is missing, or would have no effect."""
        if (self.schedule == "constant") != (self.half_step is None):
            raise ValueError(
                f"{name}.half_step goes with every schedule but constant: set it there, and only there "
                f"({name}.half_step=null with constant)"
            )
        if self.half_step is not None:
            check_span(name, "half_step", self.half_step)
        within(f"{name}.minimum", self.minimum)


def check_span(section: str, key: str, value: float) -> None:
    """Raise `ValueError` unless a span is a whole number of optimizer steps, 1 or more, or a share of the run."""
    if not 0 < value < math.inf or (value >= 1 and value % 1):
        raise ValueError(
            f"{section}.{key}={value:g} must be a whole number of optimizer steps, at least 1, or a share of the run "
            "between 0 and 1"
        )


def in_steps(span: float, run_steps: int | None) -> int:
    """A span in optimizer steps: as it is, or below 1 that share of a run of `run_steps`, though at least one step."""
    if span >= 1 or span == 0:
        return int(span)
    if run_steps is None:
        raise ValueError(f"{span:g} is a share of a run: StepContext.run_steps must say how long it is")
    return max(1, round(span * run_steps))


def gold_at(settings: ScheduleSettings, step: int, run_steps: int | None) -> float:
    """The probability of a gold token at optimizer step `step`, from 0, of a run of `run_steps`."""
    half = None if settings.half_step is None else in_steps(settings.half_step, run_steps)
    return gold_probability(settings.schedule, half, settings.minimum, step)


def gold_probability(schedule: Schedule, half_step: int | None, minimum: float, step: int) -> float:
    """Probability of feeding the gold token at optimizer step `step`, from 0 (Bengio et al. 2015, section 2.4).

    Every schedule but `constant` falls from 1 and is 1/2 at `half_step`, though never under `minimum`: linear
    1 - step / (2 half_step); exponential k^step; inverse sigmoid k / (k + exp(step / k)), which starts at k / (k + 1).
    `constant` is `minimum` from the first step on.
    """
    if schedule == "constant":
        return minimum
    assert half_step is not None
    if schedule == "linear":
        return max(minimum, 1 - step / (2 * half_step))
    if schedule == "exponential":
        return float(max(minimum, 0.5 ** (step / half_step)))
    k = sigmoid_constant(half_step)
    return max(minimum, 1 / (1 + math.exp(min(step / k, 700.0)) / k))


def sigmoid_constant(half_step: int) -> float:
    """The k >= 1 for which k / (k + exp(step / k)) is 1/2 at `half_step`: k ln k = half_step, by bisection."""
    low, high = 1.0, float(half_step) + math.e
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * math.log(middle) < half_step else (low, middle)
    return high


def sharpness(alpha: float, maximum: float | None, doubling: int | None, step: int) -> float:
    """What logits are multiplied by before a softmax at optimizer step `step`, from 0: alpha 2^(step / doubling).

    At most `maximum`; without the two, always `alpha`.
    """
    if maximum is None or doubling is None:
        return alpha
    return float(alpha * 2.0 ** min(step / doubling, math.log2(maximum / alpha)))
