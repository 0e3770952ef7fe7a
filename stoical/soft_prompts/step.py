"""What an objective sees of one step of training prompts.

Dimension letters: B targets, n vectors of a prompt, T tokens of the longest target, H hidden size, V vocabulary. Losses
are in nats. An objective is a function of a step and the settings that returns a scalar, summed over targets; none but
professor forcing lets one target's gradient depend on another target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from stoical.decoding.draws import uniform_draws
from stoical.soft_prompts.frozen import Frozen
from stoical.soft_prompts.targets import Targets

if TYPE_CHECKING:
    from stoical.objectives.mitigations.discriminator import Opponent


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one phase.

    logits [B, T, V] float32, with their graph, are the model's at each target token after the target's own prefix;
    hidden [B, T, H] the states they are read from, if the objective asks for them. reached [B]: the longest prefix, in
    tokens, that was right so far. number: steps of the phase before this one, of `steps`. seeds: a target's own, of
    this step alone.
    """

    frozen: Frozen
    prompts: Tensor
    targets: Targets
    logits: Tensor
    hidden: Tensor | None
    reached: Tensor
    number: int
    steps: int
    seeds: Sequence[str]
    opponent: Opponent | None = None

    def uniform(self, what: str, count: int) -> Tensor:
        """[B, count] float64 numbers from 0 up to 1 for one purpose, on the prompts' device."""
        return uniform_draws([f"{seed} {what}" for seed in self.seeds], count).to(self.prompts.device)


def token_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """[...] -log p of `tokens` [...] under `logits` [..., V]; nats."""
    return -logits.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


def token_margins(logits: Tensor, tokens: Tensor) -> Tensor:
    """[...] the logit of each of `tokens` [...] less the largest of all others; the likeliest token's is above 0."""
    own = logits.gather(-1, tokens[..., None])
    others = logits.scatter(-1, tokens[..., None], -float("inf"))
    return own[..., 0] - others.amax(dim=-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B] the mean of `values` [B, T] where `mask` [B, T] is set, which is at one place a row at least."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1)


def prefix_lengths(right: Tensor) -> Tensor:
    """[...] how many places of `right` [..., T] are set before the first that is not."""
    return right.long().cumprod(dim=-1).sum(dim=-1)
