"""An estimate of what one training step holds in memory, from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel

GIB = 2**30


def step_memory(
    model: PreTrainedModel, tokens: int, slots: int, low_precision: bool, optimizer: str
) -> Mapping[str, float]:
    """GiB by part, for one micro-batch of `tokens` input tokens and `slots` read-out positions.

    Weights and gradients are float32; AdamW keeps two float32 values a weight, Adafactor with beta1 one. Activations
    count what a decoder layer of the Llama kind saves for its backward pass, without checkpointing; logits are held in
    the computing precision and twice in float32. An estimate: allocator and attention workspaces are not in it.
    """
    config, parameters = model.config, model.num_parameters()
    width = 2 if low_precision else 4
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = head_dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    per_token = config.num_hidden_layers * (6 * config.hidden_size + attention + 4 * config.intermediate_size)
    states = 1 if optimizer == "adafactor" else 2
    return {
        "weights": 4 * parameters / GIB,
        "gradients": 4 * parameters / GIB,
        "optimizer": 4 * states * parameters / GIB,
        "activations": width * tokens * per_token / GIB,
        "logits": (width + 8) * slots * config.vocab_size / GIB,
    }
