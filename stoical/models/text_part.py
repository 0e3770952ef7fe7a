"""Models that read pictures or sound as well: what of them text does not run through, and so does not train."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel


def other_parts(model: PreTrainedModel) -> list[str]:
    """The names of the outermost modules that text does not run through, such as a vision tower; mostly none."""
    if model.config.get_text_config() is model.config:
        return []
    text = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(parameter) for part in text if part is not None for parameter in part.parameters()}
    return list(_outside(model, own))


def _outside(module: nn.Module, own: set[int], prefix: str = "") -> Iterator[str]:
    for name, child in module.named_children():
        held = {id(parameter) for parameter in child.parameters()}
        if held and not held & own:
            yield prefix + name
        elif not held <= own:
            yield from _outside(child, own, f"{prefix}{name}.")


def freeze_other_parts(model: PreTrainedModel) -> list[str]:
    """Have the parts that text does not run through stay as they are, where no gradient would reach them; their names.

    They are saved with the model.
    """
    parts = other_parts(model)
    for name in parts:
        model.get_submodule(name).requires_grad_(False)
    return parts


def layers_within(parts: list[str]) -> str:
    """A regular expression of these modules' names and of all names inside them."""
    return rf"({'|'.join(map(re.escape, parts))})(\..*)?"
