"""Adafactor with momentum, the SToICaL paper's optimizer (Appendix A.1), on whole weights and on FSDP2's shards.

Shazeer and Stern 2018 (arXiv:1804.04235), Algorithm 4 for matrices and 5 for vectors, with a given learning rate in
place of their relative step times the weights' size, and with momentum: a running mean of the clipped, scaled updates.
`transformers.Adafactor(beta1=0.9, scale_parameter=False, relative_step=False)` computes the same on whole tensors.

Own code, because no library at hand is right on shards: transformers 5.23, pytorch_optimizer 4.1 and timm 1.0.31 keep
the factored moments as plain tensors, which do not mix with DTensors; torch 2.13 fails on them too and has no
momentum; torchao 0.18 has no Adafactor.

Dimension letters: R rows and C columns, a weight's last two dimensions; those before are a batch of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import tensor as dtensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.optim import Optimizer

SQUARE_EPS = 1e-30  # epsilon_1: keeps the moments of a zero gradient from being zero
CLIP_THRESHOLD = 1.0  # d: largest root mean square of an update
DECAY_RATE = 0.8  # beta_2 at step t is 1 - t^-0.8


class Adafactor(Optimizer):
    """Adafactor with momentum `beta1` and decoupled weight decay (times the learning rate).

    Parameters may be plain tensors or DTensors sharded in any of their dimensions: means over a sharded dimension are
    summed over its processes. The moments of a bfloat16 or float16 parameter are float32, others have its dtype.
    """

    def __init__(self, params: Iterable[Any], lr: float, beta1: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group["lr"], group["beta1"], group["weight_decay"])
        return loss

    def _step(self, parameter: Tensor, lr: float, beta1: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(_new_state(parameter))
        state["step"] += 1
        weight, gradient = _local(parameter), _local(parameter.grad)
        gradient = gradient.to(_moment_dtype(parameter))
        update = _normalized(parameter, gradient, state, 1 - state["step"].item() ** -DECAY_RATE)
        size = _sum(update.square().sum(), parameter, range(parameter.ndim)) / parameter.numel()
        update /= (size.sqrt() / CLIP_THRESHOLD).clamp(min=1)
        momentum = _local(state["momentum"]).lerp_(lr * update, 1 - beta1)
        weight.copy_(weight.to(momentum.dtype) * (1 - lr * weight_decay) - momentum)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer does, but float32 moments stay float32 where the weights are not."""
        super().load_state_dict(state_dict)
        for group, saved_group in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, key in zip(group["params"], saved_group["params"], strict=True):
                for name, value in state_dict["state"].get(key, {}).items():
                    if name != "step":
                        self.state[parameter][name] = value.to(parameter.device, _moment_dtype(parameter))


def _normalized(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], beta2: float) -> Tensor:
    """U = G / sqrt(V): gradient over the root of its second moment, which a matrix keeps as row and column means."""
    square = gradient.square()
    if parameter.ndim < 2:
        moment = _local(state["square"]).lerp_(square + SQUARE_EPS, 1 - beta2)
        return gradient * moment.rsqrt()
    columns, rows = parameter.ndim - 1, parameter.ndim - 2
    row_mean = _sum(square.sum(-1), parameter, [columns]) / parameter.shape[columns] + SQUARE_EPS
    column_mean = _sum(square.sum(-2), parameter, [rows]) / parameter.shape[rows] + SQUARE_EPS
    row = _local(state["row"]).lerp_(row_mean, 1 - beta2)  # [..., R]
    column = _local(state["column"]).lerp_(column_mean, 1 - beta2)  # [..., C]
    mean = _sum(row.sum(-1, keepdim=True), parameter, [rows]) / parameter.shape[rows]  # [..., 1]
    return gradient * (row / mean).rsqrt().unsqueeze(-1) * column.rsqrt().unsqueeze(-2)


def _new_state(parameter: Tensor) -> dict[str, Tensor]:
    state = {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter, dtype=_moment_dtype(parameter))}
    if parameter.ndim < 2:
        return state | {"square": torch.zeros_like(state["momentum"])}
    return state | {
        "row": _zeros_without(parameter, parameter.ndim - 1),
        "column": _zeros_without(parameter, parameter.ndim - 2),
    }


def _zeros_without(parameter: Tensor, dim: int) -> Tensor:
    """Zeros of the parameter's shape without `dim`, sharded in its other dimensions as the parameter is."""
    shape = [*parameter.shape[:dim], *parameter.shape[dim + 1 :]]
    dtype = _moment_dtype(parameter)
    if not isinstance(parameter, DTensor):
        return parameter.new_zeros(shape, dtype=dtype)
    placements = [_without(placement, dim) for placement in parameter.placements]
    return dtensor.zeros(*shape, dtype=dtype, device_mesh=parameter.device_mesh, placements=placements)


def _without(placement: Placement, dim: int) -> Placement:
    """The placement once `dim` is averaged away: all processes know the mean, and later dimensions move up."""
    if not isinstance(placement, Shard) or placement.dim < dim:
        return placement
    return Replicate() if placement.dim == dim else Shard(placement.dim - 1)


def _sum(part: Tensor, parameter: Tensor, dims: Iterable[int]) -> Tensor:
    """Add what other processes have, in place, where the parameter is sharded in one of `dims`."""
    if isinstance(parameter, DTensor):
        for mesh_dim, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard) and placement.dim in dims:
                dist.all_reduce(part, group=parameter.device_mesh.get_group(mesh_dim))
    return part


def _local(tensor: Tensor | None) -> Tensor:
    """This process's piece, which shares its memory."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _moment_dtype(parameter: Tensor) -> torch.dtype:
    return torch.float32 if parameter.dtype in (torch.bfloat16, torch.float16) else parameter.dtype
