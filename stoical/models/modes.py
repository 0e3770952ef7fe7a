"""Eval mode for a while, and then the mode that the model was in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout, no embedding noise, and no activation checkpointing, which would drop the cache."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
