"""The model as it was before training, for losses that compare with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from torch import nn

from stoical.models.unwrapped import unwrapped


class Reference:
    """A frozen copy of a model, or, where LoRA adapters are trained, the model without them, which costs no memory.

    Made before training, so that a resumed run has the same one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copy = None if isinstance(model, PeftModel) else copy.deepcopy(model).requires_grad_(False)

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[nn.Module]:
        """What to run in place of `model`, which may be wrapped for training in several processes."""
        if self._copy is not None:
            yield self._copy.to(next(model.parameters()).device)
            return
        inner = unwrapped(model)
        assert isinstance(inner, PeftModel)
        with inner.disable_adapter():
            yield model
