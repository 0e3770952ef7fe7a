"""Inputs that are not tokens: mixtures of token embeddings in the places where a batch has tokens.

Dimension letters: B rows, T columns, N places that are mixed, U tokens that they are mixed of, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoical.common.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class Mixture:
    """At row, column [N] of `input_ids` stands sum_u weights[n, u] E(tokens[u]): weights [N, U] float, tokens [U].

    A one-hot row of weights is a token, to the bit. Gradients flow into the weights and into the embeddings E.
    """

    row: Tensor
    column: Tensor
    tokens: Tensor
    weights: Tensor


def embedded(model: nn.Module, input_ids: Tensor, mixture: Mixture) -> Tensor:
    """[B, T, H] what `model` would make of `input_ids` [B, T] at its input, with the mixture in its places.

    The embedding module is called, never its weight read: adapters and scales that are part of it (Gemma) count, and
    scales that a model applies afterwards (Granite) it applies to these, too.
    """
    from stoical.models.unwrapped import unwrapped

    embed = unwrapped(model).get_input_embeddings()
    inputs, parts = embed(input_ids), embed(mixture.tokens[None])[0]  # a row of tokens: what NEFTune's hook takes
    with torch.autocast(inputs.device.type, enabled=False):
        mixed = mixture.weights @ parts.to(mixture.weights.dtype)
    return inputs.index_put((mixture.row, mixture.column), mixed.to(inputs.dtype))


def check_mixable(config: PreTrainedConfig, split: str | None) -> None:
    """Raise `ValueError` where embeddings cannot be mixed: weights `split` over processes, ids read in every layer."""
    if split is not None:
        raise ValueError(
            f"mitigations.soft_sampling looks embeddings up outside the model's forward, where {split} has them in "
            "pieces; use DDP (accelerate_configs/ddp.yaml), or mitigations.scheduled_sampling"
        )
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
        raise ValueError(
            f"model {config.model_type!r} embeds tokens again in every layer, and a mixture is not one; "
            "use mitigations.scheduled_sampling, or another model"
        )
