"""Which models a trie can be run through, and which are refused rather than run wrongly."""

from __future__ import annotations

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import PreTrainedConfig

from stoical.models.layouts import MASKABLE


def check_model(model: nn.Module, max_length: int) -> None:
    """Raise `ValueError` where a trie cannot be run through `model` exactly, up to `max_length` tokens a sequence."""
    config: PreTrainedConfig = extract_model_from_parallel(model).config
    name = f"model {config.model_type!r}"
    attention = config._attn_implementation
    if attention not in MASKABLE:
        raise ValueError(
            f"{name}: attention implementation {attention!r} cannot take the mask of a trie; "
            f"set model.attn_implementation to one of {', '.join(MASKABLE)}"
        )
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder; stoical trains decoder-only models")
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds or extract_model_from_parallel(model)._is_stateful:
        raise ValueError(
            f"{name} has recurrent or hybrid layers ({', '.join(sorted(kinds)) or 'stateful'}), and a recurrent state "
            "cannot branch at the nodes of a trie; use a model with plain attention in every layer"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and window < max_length:
        raise ValueError(
            f"{name} attends to a sliding window of {window} tokens, shorter than prompt.max_length={max_length}; "
            "lower prompt.max_length or set the window off in the model's config (model.config.sliding_window=null)"
        )
