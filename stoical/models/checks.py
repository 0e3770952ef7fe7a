"""Which models a trie can be run through, decided by their config and modules before any weight is loaded.

What a config cannot show, `models.self_check` finds by running: a trie against plain forward passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedConfig

from stoical.models.attention import attention_of
from stoical.models.layouts import MASKABLE
from stoical.models.prompt_cache import virtual_tokens
from stoical.models.unwrapped import unwrapped

LENGTH_ROPE = ("dynamic", "longrope")  # their frequencies follow the longest row of the batch, past a length
WINDOWED = ("sliding_attention", "chunked_attention")
PLAIN = {"full_attention", *WINDOWED}


def check_model(model: nn.Module, max_length: int, virtual: int = 0) -> None:
    """Raise `ValueError` where a trie cannot be run through `model` exactly, up to `max_length` tokens a sequence.

    The model may be on the meta device. virtual: tokens of a soft prompt that come before these, where the model does
    not have them yet.
    """
    virtual = virtual or virtual_tokens(model)
    asked = f"prompt.max_length={max_length}" + f" after {virtual} virtual tokens" * bool(virtual)
    inner = unwrapped(model)
    inner = inner.get_base_model() if isinstance(inner, PeftModel) else inner
    config: PreTrainedConfig = inner.config.get_text_config()
    name = f"model {config.model_type!r}"
    _check_attention(inner, name)
    _check_layers(inner, config, name)
    _check_blocks(config, name)
    _check_dropout(config, name)
    _check_positions(inner, config, name, max_length + virtual, asked)
    for what, size, setting in _windows(config):
        if size < max_length + virtual:
            raise ValueError(
                f"{name} attends to {what} of {size} tokens, shorter than {asked}; lower "
                f"prompt.max_length{f', or set it off (model.config.{setting}=null)' if setting else ''}"
            )


def _check_attention(model: Any, name: str) -> None:
    attention = attention_of(model)
    if attention not in MASKABLE:
        raise ValueError(
            f"{name}: attention implementation {attention!r} cannot take the mask of a trie; "
            f"set model.attn_implementation to one of {', '.join(MASKABLE)}"
        )
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder; stoical trains decoder-only models")


def _check_dropout(config: PreTrainedConfig, name: str) -> None:
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"{name}: model.config.{key}={value} is a probability, between 0 and 1")


def _check_layers(model: Any, config: PreTrainedConfig, name: str) -> None:
    kinds = set(getattr(config, "layer_types", None) or []) - PLAIN
    if kinds or getattr(model, "_is_stateful", False):
        raise ValueError(
            f"{name} has recurrent or hybrid layers ({', '.join(sorted(kinds)) or 'stateful'}), and a recurrent state "
            "cannot branch at the nodes of a trie; use a model with plain attention in every layer"
        )


def _check_blocks(config: PreTrainedConfig, name: str) -> None:
    """Attention to blocks of a long row's places depends on what else the row holds; short rows do not show it."""
    if getattr(config, "attention_type", None) == "block_sparse":
        raise ValueError(
            f"{name} attends to blocks of places in long rows (attention_type=block_sparse), and the nodes of a trie "
            "share places; set model.config.attention_type=original_full"
        )
    if getattr(config, "index_topk_blocks", None):
        raise ValueError(
            f"{name} attends to the best {config.index_topk_blocks} blocks of places in long rows, and the nodes of a "
            "trie share places; use a model with plain attention in every layer"
        )


def _check_positions(model: Any, config: PreTrainedConfig, name: str, needed: int, asked: str) -> None:
    """Nodes side by side in a row share positions, which a model must take as they are given, as many as `needed`."""
    if getattr(config, "alibi", False) or "position_ids" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{name} makes positions itself, out of a token's place in the row (ALiBi, say), and the nodes of a trie "
            "share places; use a model that takes position_ids"
        )
    for module, size in _position_tables(model):
        if size < needed:
            raise ValueError(f"{name} has {size} positions ({module}), fewer than {asked}; lower prompt.max_length")
    for kind, limit in _length_ropes(config):
        if limit < needed:
            raise ValueError(
                f"{name}: rope_type={kind} turns with the longest row of a batch past {limit} tokens, so that scores "
                f"would depend on the batch; lower {asked} to {limit} in all, or set another rope_type (linear, yarn) "
                "in model.config.rope_parameters"
            )


def _position_tables(model: nn.Module) -> Iterator[tuple[str, int]]:
    """(name, positions) of every table of positions of text: learned, or computed once (GPT-J, CodeGen, CTRL)."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        is_text = not any(part.startswith(("vision", "audio")) for part in name.split("."))
        if is_text and isinstance(module, nn.Embedding) and (last == "wpe" or "position" in last):
            yield name, module.num_embeddings - int(getattr(module, "offset", 0))
    for name, table in model.named_buffers():
        if name.rpartition(".")[2] in ("embed_positions", "pos_encoding"):
            yield name, len(table)


def _length_ropes(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """(rope_type, tokens up to which its frequencies stay) of rotary embeddings that follow the row's length."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in parameters.values() if isinstance(one, dict)]
    for one in nested or [parameters]:
        kind = one.get("rope_type")
        if kind in LENGTH_ROPE:
            own = one.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None))
            yield kind, int(own or config.max_position_embeddings)


def _windows(config: PreTrainedConfig) -> Iterator[tuple[str, int, str]]:
    """(what, tokens, the setting that sets it off) of windows that some layer attends within."""
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", True) and (types is None or "sliding_attention" in types)
    if window and used:
        yield "a sliding window", int(window), "sliding_window"
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk and (types is None or "chunked_attention" in types):
        yield "chunks", int(chunk), "attention_chunk_size"
    if "local" in (getattr(config, "attention_layers", None) or []):
        yield "a local window", int(config.window_size), ""
    kept = getattr(config, "keep_window_size", None)
    if kept:  # Doge: of a longer row every token sees the tokens that its layers hold for the best
        yield "a dynamic window", int(kept), ""
