"""Floating-point operations of a decoder's pass, and what devices can do: for the model FLOPs utilisation (MFU)."""

from __future__ import annotations

from stoical.training.memory import ModelShape

PEAK = {  # dense bfloat16 FLOP/s by the vendor's data sheets; the first name that the device's holds counts
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}


def peak_flops(device: str) -> float | None:
    """FLOP/s of a device by its name; None for one that is not listed."""
    return next((flops for name, flops in PEAK.items() if name in device), None)


def pass_flops(shape: ModelShape, tokens: float, slots: float, pairs: float, training: bool) -> float:
    """Of a forward pass over `tokens` tokens with logits at `slots` of them, and with `training` of a backward pass.

    `pairs` of a query and a key are attended to. Every weight costs two operations a token, every pair four a layer and
    number of the heads' width; the backward pass costs twice the forward. What is recomputed or masked does not count.
    """
    head = shape.vocabulary * shape.hidden
    layers = 2 * tokens * (shape.parameters - shape.ends)
    attention = 4 * pairs * shape.layers * shape.query_width
    return (3 if training else 1) * (layers + attention + 2 * slots * head)
