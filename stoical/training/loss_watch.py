"""Which queries a loss or a gradient that is not finite came from, without waiting for the device at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Broken:
    """What was first not finite, over all processes: `what` at a step (from 1), and the queries of that step."""

    what: str
    step: int
    query_ids: tuple[str, ...]


@dataclass
class LossWatch:
    """Keeps losses and gradient norms on the device until somebody looks: before a log, an evaluation or a save."""

    _losses: list[Tensor] = field(default_factory=list)
    _origins: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    _norms: list[tuple[int, Tensor | float]] = field(default_factory=list)

    def add(self, loss: Tensor, step: int, query_ids: tuple[str, ...]) -> None:
        """A micro-batch's loss, a scalar on the device; nothing is read from it here."""
        self._losses.append(loss.detach())
        self._origins.append((step, query_ids))

    def add_norm(self, norm: Tensor | float, step: int) -> None:
        """The norm of a step's whole gradient, the same on every process."""
        self._norms.append((step, norm))

    def first_broken(self, accelerator: Accelerator) -> Broken | None:
        """What broke first since the last look, the same on every process; all of them must call it."""
        if not self._losses:  # as on every other process: micro-batches are shared out evenly
            return None
        losses, origins, norms = torch.stack(self._losses), self._origins, self._norms
        self._losses, self._origins, self._norms = [], [], []
        bad = ~torch.isfinite(losses)
        if accelerator.reduce(bad.sum(), reduction="sum"):
            mine = [(origins[i], losses[i].item()) for i in bad.nonzero()[:, 0].tolist()]
            found = _everywhere(mine, accelerator)
            first = min(step for (step, _), _ in found)
            here = [(ids, value) for (step, ids), value in found if step == first]
            return Broken(f"the loss is {here[0][1]}", first, tuple(query for ids, _ in here for query in ids))
        for step, norm in norms:
            if not math.isfinite(float(norm)):
                ids = _everywhere([ids for own, ids in origins if own == step], accelerator)
                return Broken(f"the gradient's norm is {float(norm)}", step, tuple(q for one in ids for q in one))
        return None


def _everywhere(mine: list[T], accelerator: Accelerator) -> list[T]:
    """What all processes have, in their order."""
    return mine if accelerator.num_processes == 1 else list(gather_object(mine))


def broken_weights(model: nn.Module, accelerator: Accelerator) -> list[str]:
    """Names of the trainable tensors that hold a number that is not finite; every process must call it."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    local = [(p.to_local() if isinstance(p, DTensor) else p).detach() for _, p in named]
    bad = torch.stack([(~torch.isfinite(p)).any() for p in local]).to(accelerator.device, torch.int64)
    total = accelerator.reduce(bad, reduction="sum").tolist()
    return [name for (name, _), count in zip(named, total, strict=True) if count]
