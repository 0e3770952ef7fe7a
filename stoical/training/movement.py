"""Whether the weights move, looked at over the first optimizer steps of a run, and again after it is resumed.

A trainable tensor that no gradient reaches, and a weight whose update is rounded away, both train in silence: the loss
comes down with the rest, or not at all. Whether a gradient is there is exact: `any` over the whole tensor. Whether
weights moved is seen on a sample of the elements that have one, compared bit for bit before and after the step, so that
nothing of the model's size is kept (7 billion float32 weights would be 29 GB).

Not every tensor can move in step 1: warm-up starts at a learning rate of 0, and LoRA's A has no gradient while its B is
0. So two steps with a learning rate are waited for before a missing gradient is an error, and the end of the warm-up
before an update counts as too small.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, reduce
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SAMPLE = 4096  # elements a tensor
LOOKED_AT = 2**20  # elements of a tensor among which the sample is taken, unless none of them has a gradient
NAMED = 5  # tensors that a message lists


@dataclass(frozen=True, slots=True)
class Sample:
    """Places in a tensor's flat local shard that have a gradient, and the values there. Both [K]."""

    places: Tensor
    before: Tensor

    def changed(self, parameter: nn.Parameter) -> int:
        """How many of the values have changed."""
        return int((_flat(parameter.detach())[self.places] != self.before).sum())


def _flat(tensor: Tensor) -> Tensor:
    """All elements that this process holds of a tensor, which FSDP2 shards as a DTensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).flatten()


def take_sample(parameter: nn.Parameter) -> Sample | None:
    """Up to SAMPLE elements, spread evenly over those whose gradient is not 0; None where there is no such element."""
    if parameter.grad is None:
        return None
    gradient = _flat(parameter.grad)
    if not gradient.any():
        return None
    stride = math.ceil(len(gradient) / LOOKED_AT)
    places = gradient[::stride].nonzero().flatten() * stride
    if not len(places):
        places = gradient.nonzero().flatten()
    places = places[:: math.ceil(len(places) / SAMPLE)]
    return Sample(places, _flat(parameter.detach())[places])


class MovementCheck(TrainerCallback):
    """Raises `ValueError` for trainable tensors that get no gradient, and warns of weights that do not move.

    What the processes saw is added up, since a shard may see nothing of what another does. Under DeepSpeed nothing is
    looked at: it keeps gradients to itself.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start counting again: a run may be resumed."""
        self.done = AcceleratorState().distributed_type == DistributedType.DEEPSPEED
        self.steps = 0  # looked at, in this process
        self.samples: dict[str, Sample | None] = {}
        self.total: Tensor | None = None  # [trainable tensors, 2]: elements sampled and changed, over the steps

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note what is about to be updated."""
        due = self.steps < 2 or _warm(args, state)
        if not self.done and due and learning_rate(kwargs["optimizer"]) > 0:
            self.samples = {name: take_sample(parameter) for name, parameter in trainable(kwargs["model"]).items()}

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare, and judge after two steps and after the warm-up. A step that a loss scaler skipped is none."""
        samples, self.samples = self.samples, {}
        if not samples or kwargs["optimizer"].step_was_skipped:
            return
        parameters, rate = trainable(kwargs["model"]), learning_rate(kwargs["optimizer"])
        own = [[len(s.places), s.changed(parameters[name])] if s else [0, 0] for name, s in samples.items()]
        counts: Tensor = reduce(torch.tensor(own, device=args.device), reduction="sum").cpu()
        self.total = counts if self.total is None else self.total + counts
        self.steps += 1
        if self.steps == 2:
            refuse_without_gradient(list(samples), self.total)
        if self.steps >= 2 and _warm(args, state):
            self.done = True
            if state.is_world_process_zero:
                warn_of_unmoved(list(samples), self.total, rate)
                low = [i for i, p in enumerate(parameters.values()) if torch.finfo(p.dtype).bits < 32]
                before = [s.before.abs().float() for i, s in enumerate(samples.values()) if s and i in low]
                if before:
                    warn_of_rounding(counts[low].sum(0), torch.cat(before).median(), rate, state.global_step + 1)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that train, in an order that is the same on all processes."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def learning_rate(optimizer: Any) -> float:
    """The largest of the optimizer's groups, as the next step takes it."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _warm(args: TrainingArguments, state: TrainerState) -> bool:
    """True where the step at hand has the full learning rate."""
    return state.global_step >= int(args.get_warmup_steps(state.max_steps))


def refuse_without_gradient(names: list[str], total: Tensor) -> None:
    """Raise `ValueError` for the tensors of which no element was sampled: none had a gradient."""
    missing = [name for name, sampled in zip(names, total[:, 0].tolist(), strict=True) if not sampled]
    if missing:
        way = "Train adapters instead (recipe=...,lora)"
        if any("lora_" in name for name in names):
            way = "Name their layers in lora.exclude_modules, or leave them out of what else lora names"
        raise ValueError(
            f"no gradient reached {len(missing)} of {len(names)} trainable tensors in the first 2 steps, so that they "
            f"would never move: {_listed(missing)}. {way}; with activation checkpointing, use_reentrant must stay false"
        )


def warn_of_unmoved(names: list[str], total: Tensor, rate: float) -> None:
    """Name the tensors that had a gradient and of which no sampled element changed in any step looked at."""
    unmoved = [name for name, changed in zip(names, total[:, 1].tolist(), strict=True) if not changed]
    if unmoved:
        logger.warning(
            f"WARNING: {len(unmoved)} of {len(names)} trainable tensors do not move at a learning rate of {rate:g}, "
            f"though a gradient reaches them: {_listed(unmoved)}"
        )


def warn_of_rounding(counts: Tensor, median: Tensor, rate: float, step: int) -> None:
    """Say how few bfloat16 weights a step changed, and why, where it is less than half.

    counts [2]: sampled and changed. Rounding to nearest drops an update below half the gap to the next number.
    """
    sampled, changed = counts.tolist()
    if changed >= sampled / 2:
        return
    least = 2.0 ** math.floor(math.log2(float(median))) * torch.finfo(torch.bfloat16).eps / 2
    logger.warning(
        f"WARNING: step {step} changed {100 * changed / sampled:.1f}% of the bfloat16 weights (of {sampled:,} sampled "
        f"that have a gradient; learning rate {rate:g}). bfloat16 keeps 8 bits: a weight of {float(median):.2g}, their "
        f"median, needs an update of {least:.2g} to change at all. Set model.dtype=float32; training.bf16=true still "
        "computes in bfloat16"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
