"""Two packed batches, bit for bit."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from stoical.encoding.packed_batch import PackedBatch


def assert_same_batch(found: PackedBatch, expected: PackedBatch) -> None:
    """Every field alike; a grade that is missing (NaN) is like another."""
    for each in fields(PackedBatch):
        one, other = getattr(found, each.name), getattr(expected, each.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype, each.name
            assert np.array_equal(one.numpy(), other.numpy(), equal_nan=one.is_floating_point()), each.name
        else:
            assert one == other, each.name
