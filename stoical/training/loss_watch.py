"""Which queries a loss that is not finite came from, without waiting for the device at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BrokenLoss:
    """The first step (from 1) with a loss that is not finite, over all processes, and its queries."""

    step: int
    value: float
    query_ids: tuple[str, ...]


@dataclass
class LossWatch:
    """Keeps the losses of this process on the device until somebody looks at them: before a log, evaluation or save."""

    _losses: list[Tensor] = field(default_factory=list)
    _origins: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def add(self, loss: Tensor, step: int, query_ids: tuple[str, ...]) -> None:
        """A micro-batch's loss, a scalar on the device; nothing is read from it here."""
        self._losses.append(loss.detach())
        self._origins.append((step, query_ids))

    def first_broken(self, accelerator: Accelerator) -> BrokenLoss | None:
        """What broke first since the last look, the same on every process; all of them must call it."""
        if not self._losses:  # as on every other process: micro-batches are shared out evenly
            return None
        losses, origins = torch.stack(self._losses), self._origins
        self._losses, self._origins = [], []
        bad = ~torch.isfinite(losses)
        if not accelerator.reduce(bad.sum(), reduction="sum"):
            return None
        mine = [(origins[i], losses[i].item()) for i in bad.nonzero()[:, 0].tolist()]
        found = mine if accelerator.num_processes == 1 else gather_object(mine)
        first = min(step for (step, _), _ in found)
        here = [(ids, value) for (step, ids), value in found if step == first]
        return BrokenLoss(first, here[0][1], tuple(query for ids, _ in here for query in ids))
