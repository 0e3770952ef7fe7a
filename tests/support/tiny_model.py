"""A tiny random Mistral."""

from __future__ import annotations

import torch
from transformers import MistralConfig, MistralForCausalLM

from stoical.models.attention import register

VOCAB = 97
EOS = 2
register()  # trie_sdpa, whatever else a test imports


def tiny_model(attention: str = "trie_sdpa", seed: int = 0, **config: object) -> MistralForCausalLM:
    """Two layers, grouped-query attention, all sizes distinct so that a mixed-up dimension cannot go unseen."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": None,
        "initializer_range": 0.2,
        "attn_implementation": attention,
    }
    return MistralForCausalLM(MistralConfig(**(shape | config)))
