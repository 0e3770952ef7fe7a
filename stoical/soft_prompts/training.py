"""Prompts that train side by side behind one frozen model, each until `generate` writes its target.

Dimension letters: B targets of a batch, n vectors of a prompt, H hidden size, T tokens of the longest target.

All random numbers are functions of the seed, the target and the step, so a state holds no generator, and a target's
prompt does not depend on which targets stand beside it (but for rounding, and for professor forcing).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from stoical.common.files import write_whole
from stoical.common.progress import progress
from stoical.objectives.mitigations.discriminator import Opponent
from stoical.soft_prompts.begin import first_prompts, spread, target_seeds
from stoical.soft_prompts.decoders import generate
from stoical.soft_prompts.frozen import Frozen
from stoical.soft_prompts.mixed_inputs import scheduled_sampling
from stoical.soft_prompts.on_outputs import minimum_risk, mixer, negatives, reinforce, unlikelihood
from stoical.soft_prompts.professor import professor_forcing
from stoical.soft_prompts.settings import SoftPromptSettings, parse_phases
from stoical.soft_prompts.step import Step, prefix_lengths, token_margins
from stoical.soft_prompts.targets import Targets, pad
from stoical.soft_prompts.teacher_forced import cross_entropy, first_error, growing, margin, worst_position

SUM_BYTES = 16
OBJECTIVE: dict[str, Callable[[Step, SoftPromptSettings], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "worst_position": worst_position,
    "first_error": first_error,
    "growing": growing,
    "scheduled_sampling": scheduled_sampling,
    "reinforce": reinforce,
    "mixer": mixer,
    "minimum_risk": minimum_risk,
    "professor_forcing": professor_forcing,
    "unlikelihood": unlikelihood,
    "negatives": negatives,
}


@dataclass
class Progress:
    """What is known of each target, [B] each, and the log of the whole batch.

    found: the step at which its prompt was found, or -1. best [B, n, H]: the prompt that `generate` wrote most of the
    target with, of equals the one with the largest margin; right: how many tokens those are; least: the smallest margin
    of a position; accuracy: the share of positions whose teacher-forced argmax is the target's, of the best prompt.
    reached: the longest prefix that was right so far while training.
    """

    found: Tensor
    best: Tensor
    right: Tensor
    least: Tensor
    accuracy: Tensor
    reached: Tensor
    log: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, prompts: Tensor) -> Progress:
        """Nothing is known."""
        count = torch.zeros(len(prompts), dtype=torch.int64, device=prompts.device)
        none = torch.full_like(count, -1, dtype=torch.float32)
        return cls(count - 1, prompts.detach().clone(), count - 1, none - torch.inf, none * 0, count.clone())


class PromptTraining:
    """One batch of targets: their prompts, Adam, what is known of them, and a file to go on from."""

    def __init__(
        self,
        frozen: Frozen,
        encoded: Sequence[Sequence[int]],
        settings: SoftPromptSettings,
        stop_margin: float,
        state_file: Path | None = None,
    ) -> None:
        self.frozen, self.settings, self.stop_margin, self.state_file = frozen, settings, stop_margin, state_file
        self.targets = pad(encoded, frozen.model.device)
        self.seeds = target_seeds(settings, encoded)
        self.phases = phase_steps(settings)
        self.prompts = torch.nn.Parameter(first_prompts(frozen, settings, self.seeds))
        self.optimizer = torch.optim.Adam([self.prompts], lr=settings.learning_rate * spread(frozen))
        self.progress = Progress.start(self.prompts)
        self.opponent = self._make_opponent()
        self.step = 0
        if state_file is not None and state_file.is_file():
            state = read_state(state_file)
            if state["seeds"] != self.seeds:
                raise ValueError(f"{state_file} is of other targets; delete it, and these prompts begin anew")
            self.load_state_dict(state)

    def _make_opponent(self) -> Opponent | None:
        if all(name != "professor_forcing" for name, _, _ in self.phases):
            return None
        own = self.settings.professor_forcing
        torch.manual_seed(self.settings.seed)  # which its weights are drawn from
        return Opponent(self.prompts.shape[2], own.width, own.learning_rate, self.prompts.device)

    def run(self, what: str = "training prompts", shown: bool = True) -> Progress:
        """Train to the last step, or until every prompt is found."""
        steps = range(self.step, self.settings.steps)
        for _ in progress(steps, what, shown, note=self.note, first=self.step):
            if self.step % self.settings.check_every == 0 and not self.check():
                break
            self.train_step()
            if self.state_file is not None and self.step % self.settings.save_every == 0:
                self.save()
        if self.step == self.settings.steps:
            self.check()
        if self.state_file is not None:
            self.save()
        return self.progress

    def note(self) -> str:
        """How far it is, in words."""
        return f"{int((self.progress.found >= 0).sum())} of {len(self.seeds)} found"

    def train_step(self) -> None:
        """One step of Adam on the prompts that are not found yet."""
        name, begin, end = next(phase for phase in self.phases if self.step < phase[2])
        left = (self.progress.found < 0).nonzero()[:, 0]
        targets, prompts = self.targets.rows(left), self.prompts[left]
        wanted = name == "professor_forcing"
        logits, hidden = self.frozen.teacher_forced(prompts, targets.tokens, hidden=wanted)
        self._reach(left, targets, logits.detach())
        seeds = [f"{self.seeds[row]} {self.step}" for row in left.tolist()]
        reached = self.progress.reached[left]
        step = Step(
            self.frozen, prompts, targets, logits, hidden, reached, self.step - begin, end - begin, seeds, self.opponent
        )
        self.optimizer.zero_grad()
        OBJECTIVE[name](step, self.settings).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if wanted and self.opponent is not None:
            self.opponent.step(self.settings.professor_forcing.ceiling)
        self.step += 1

    def _reach(self, left: Tensor, targets: Targets, logits: Tensor) -> None:
        """Take up the longest prefix that was right."""
        right = prefix_lengths((token_margins(logits, targets.tokens) > 0) & targets.mask)
        self.progress.reached[left] = torch.maximum(self.progress.reached[left], right)

    @torch.no_grad()
    def check(self) -> bool:
        """Have the prompts that are left write; keep the best, and those that are found. False where none are left."""
        known = self.progress
        if known.log and known.log[-1]["step"] == self.step:  # of the state that was loaded
            return bool((known.found < 0).any())
        left = (known.found < 0).nonzero()[:, 0]
        if not len(left):
            return False
        targets, prompts = self.targets.rows(left), self.prompts[left]
        logits, _ = self.frozen.teacher_forced(prompts, targets.tokens)
        margins = token_margins(logits, targets.tokens)
        forced = (margins > 0) & targets.mask
        least = margins.masked_fill(~targets.mask, torch.inf).amin(dim=1).float()
        right = written_right(self.frozen, prompts, targets)
        exact = right == targets.lengths
        better = (right > known.right[left]) | ((right == known.right[left]) & (least > known.least[left]))
        kept = left[better]
        known.best[kept], known.right[kept], known.least[kept] = prompts[better], right[better], least[better]
        known.accuracy[kept] = (forced.sum(dim=1) / targets.lengths)[better]
        known.found[left[exact & (least > self.stop_margin)]] = self.step
        self._log(left, targets, forced, right)
        return bool((known.found < 0).any())

    def _log(self, left: Tensor, targets: Targets, forced: Tensor, right: Tensor) -> None:
        """A line of the log: shares over all targets, those found earlier counting as right."""
        count, done = len(self.seeds), len(self.seeds) - len(left)
        exact, all_forced = right == targets.lengths, forced.sum(dim=1) == targets.lengths
        self.progress.log.append(
            {
                "step": self.step,
                "exact": (done + int(exact.sum())) / count,
                "found": int((self.progress.found >= 0).sum()) / count,
                "teacher_forced": (done + float((forced.sum(dim=1) / targets.lengths).sum())) / count,
                "prefix": (done + float((right / targets.lengths).sum())) / count,
                "compared": len(left),
                "agree": int((exact == all_forced).sum()),
            }
        )

    def save(self) -> None:
        """Write the state, whole or not at all."""
        assert self.state_file is not None
        buffer = io.BytesIO()
        torch.save(self.state_dict(), buffer)
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.state_file, _sum(buffer.getvalue()) + buffer.getvalue())

    def state_dict(self) -> dict[str, Any]:
        """All that changes, and whose it is."""
        return {
            "seeds": self.seeds,
            "step": self.step,
            "prompts": self.prompts.detach(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dict(vars(self.progress)),
            "opponent": None if self.opponent is None else self.opponent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.step = state["step"]
        with torch.no_grad():
            self.prompts.copy_(state["prompts"])
        self.optimizer.load_state_dict(state["optimizer"])
        known = dict(state["progress"])
        log = known.pop("log")
        self.progress = Progress(**{name: value.to(self.prompts.device) for name, value in known.items()}, log=log)
        if self.opponent is not None:
            self.opponent.load_state_dict(state["opponent"])


def read_state(path: Path) -> dict[str, Any]:
    """What a batch of prompts goes on from. Raises `ValueError` where the file is not as it was written."""
    content = path.read_bytes()
    if content[:SUM_BYTES] != _sum(content[SUM_BYTES:]):
        raise ValueError(f"{path} is damaged; delete it, and its prompts begin anew")
    state: dict[str, Any] = torch.load(io.BytesIO(content[SUM_BYTES:]), weights_only=True, map_location="cpu")
    return state


def _sum(content: bytes) -> bytes:
    """XXH3 of a state, which its file begins with: torch itself takes a flipped bit for a number."""
    return xxhash.xxh3_128(content).digest()


def phase_steps(settings: SoftPromptSettings) -> list[tuple[str, int, int]]:
    """(objective, its first step, the step after its last) of each phase."""
    found, share, begin = [], 0.0, 0
    for phase in parse_phases(settings.objective):
        share += phase.share
        end = round(settings.steps * share)
        found.append((phase.name, begin, end))
        begin = end
    return found


def written_right(frozen: Frozen, prompts: Tensor, targets: Targets) -> Tensor:
    """[R] how many tokens `generate`, greedily, writes of each target before the first that differs."""
    tokens = generate(frozen, prompts, targets.tokens.shape[1]).to(targets.tokens.device)
    same = torch.zeros_like(targets.mask)  # what ended early is narrower
    same[:, : tokens.shape[1]] = tokens == targets.tokens[:, : tokens.shape[1]]
    return prefix_lengths(same & targets.mask)
