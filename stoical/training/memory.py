"""An estimate of what one training step holds in memory on one device, from shapes alone.

Dimension letters, as in transformers' configs: H hidden size, A width of all query heads, K width of all key heads, I
intermediate size, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig

from stoical.models.chunked_head import chunk_tokens, in_chunks

GIB = 2**30
FOUR_BIT = 0.53  # bytes a weight in NF4 with double quantization: 4 bits and the scales of its blocks
Split = Literal["none", "ddp", "zero2", "full"]  # what processes share of a model


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model matters to memory; `ends` counts the weights of embeddings and head, `lora_inputs` is per layer.

    trainable and frozen count parameters. linear_sizes: input plus output width of every linear layer but the head,
    summed, which times the rank r are the parameters that LoRA adds.
    """

    trainable: int
    frozen: int
    ends: int
    layers: int
    hidden: int
    query_width: int
    key_width: int
    intermediate: int
    vocabulary: int
    linear_sizes: int

    @property
    def parameters(self) -> int:
        """The number of all parameters, trained and frozen."""
        return self.trainable + self.frozen


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tensors of one micro-batch.

    tokens: what layers see, with padding where there is no flat row. attended: what attention sees, padding always.
    slots: where logits are made. mask: its elements.
    """

    rows: int
    tokens: int
    attended: int
    slots: int
    mask: int

    def smaller(self, rows: int) -> MicroBatch:
        """The same with fewer rows."""
        sizes = (self.tokens, self.attended, self.slots, self.mask)
        return MicroBatch(rows, *(size * rows // self.rows for size in sizes))

    def longer(self, columns: int, nodes: int) -> MicroBatch:
        """The same with so many more columns in every row, which its `nodes` see, and no logits there."""
        more = self.rows * columns
        return replace(self, tokens=self.tokens + more, attended=self.attended + more, mask=self.mask + more * nodes)


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """Everything else that matters.

    low_precision: the computation is bfloat16 or float16. frozen_bytes, trained_bytes: of a weight of either kind; the
    residual stream has the former's precision. states: values a trained weight that the optimizer keeps: 2 for AdamW,
    in the weight's precision, 1 for Adafactor with beta1, in float32.
    whole_logits: all logits are there at once, however many (`models.reading` says where). lora: adapters are trained.
    soft_prompt: nothing in the layers is. reference: a frozen copy of the weights is there to compare with.
    dropout_bytes: of their dropout's mask, an element: 0 without, 1 on CUDA, 4 on CPUs.
    """

    low_precision: bool
    states: int
    checkpointing: bool = False
    sharding: Split = "none"
    processes: int = 1
    frozen_bytes: float = 4.0
    trained_bytes: int = 4
    lora: bool = False
    soft_prompt: bool = False
    dropout_bytes: int = 0
    reference: bool = False
    whole_logits: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number in the computation."""
        return 2 if self.low_precision else 4


INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")  # as configs call it; None means 4 times hidden


def model_shape(model: nn.Module, config: PreTrainedConfig) -> ModelShape:
    """The shape of a model of the Llama kind, which may be on the meta device and hold LoRA adapters."""
    config = config.get_text_config()
    ends = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    linear = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in name]
    counts = [(p.requires_grad, p.numel()) for p in model.parameters()]
    return ModelShape(
        trainable=sum(count for trains, count in counts if trains),
        frozen=sum(count for trains, count in counts if not trains),
        ends=ends,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_width=_over_layers(config, lambda layer: _head_dim(layer) * layer.num_attention_heads),
        key_width=_over_layers(config, lambda layer: _head_dim(layer) * _key_heads(layer)),
        intermediate=_over_layers(config, _inner),
        vocabulary=config.vocab_size,
        linear_sizes=sum(m.in_features + m.out_features for m in linear),
    )


def _over_layers(config: PreTrainedConfig, size: Callable[[PreTrainedConfig], float]) -> int:
    """The mean of a size over the layers, rounded up: they may differ (Gemma 3n and 4)."""
    layers = config.per_layer_config
    return math.ceil(sum(map(size, layers)) / len(layers))


def _head_dim(layer: PreTrainedConfig) -> int:
    return getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads


def _key_heads(layer: PreTrainedConfig) -> int:
    return getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads


def _inner(layer: PreTrainedConfig) -> float:
    size = next((size for name in INNER if (size := getattr(layer, name, None))), 4 * layer.hidden_size)
    return sum(size) / len(size) if isinstance(size, list) else size  # a list has the size of every layer


def step_memory(shape: ModelShape, batch: MicroBatch, setup: TrainingSetup) -> Mapping[str, float]:
    """GiB by part, for the moment when the backward pass of a later micro-batch of an accumulation begins.

    Without accumulation the gradients are not there yet at that moment, and the sum is an upper limit. Workspaces of
    the allocator, of attention kernels and of the optimizer's step are not in it.
    """
    split, share = setup.sharding, 1 / setup.processes
    trained = setup.trained_bytes * shape.trainable
    weights = (trained + setup.frozen_bytes * shape.frozen) * (share if split == "full" else 1)
    gradients = trained * (share if split in ("full", "zero2") else 1)
    states = setup.states * max(trained, 4 * shape.trainable if setup.states == 1 else 0)
    parts = {
        "weights": weights,
        "gradients": gradients * (2 if split == "ddp" else 1),  # DDP's buckets are a second copy
        "optimizer": states * (share if split in ("full", "zero2") else 1),
        "activations": _activations(shape, batch, setup),
        "logits": _logits(shape, batch, setup),
    }
    if setup.reference:
        parts["reference"] = trained + setup.frozen_bytes * shape.frozen
    if split == "full":
        parts["gathered"] = setup.width * (shape.ends + 2 * (shape.parameters - shape.ends) / shape.layers)
    elif setup.low_precision and setup.frozen_bytes == 4:
        parts["casts"] = _casts(shape, batch, parts["activations"] + parts["logits"], setup)
    return {name: size / GIB for name, size in parts.items()}


def _logits(shape: ModelShape, batch: MicroBatch, setup: TrainingSetup) -> float:
    """Bytes of the vocabulary's logits, their softmax and their gradients: of all of them, or of one chunk's.

    The gradient of the head's weight is there before the last chunk's is, and the states are there in float32.
    """
    if not _in_chunks(shape, batch, setup):
        return (setup.width + 16) * batch.slots * shape.vocabulary
    chunk = (8 if setup.low_precision else 4) * chunk_tokens(batch.slots) * batch.slots
    weight = 0 if setup.lora or setup.soft_prompt else setup.trained_bytes * shape.vocabulary * shape.hidden
    return chunk + weight + 4 * batch.slots * shape.hidden


def _in_chunks(shape: ModelShape, batch: MicroBatch, setup: TrainingSetup) -> bool:
    return not setup.whole_logits and in_chunks(batch.slots, shape.vocabulary)


def _casts(shape: ModelShape, batch: MicroBatch, others: float, setup: TrainingSetup) -> float:
    """Bytes of the low-precision copies of the weights that are multiplied (embeddings that are no head are looked up).

    Autocast keeps them for the backward pass. With checkpointing they live to the end of the forward pass, when most
    of the `others`, activations and logits, are not there yet.
    """
    head = 0 if _in_chunks(shape, batch, setup) else shape.vocabulary * shape.hidden
    copies = 2 * (shape.parameters - shape.ends + head)
    return max(copies / shape.layers, copies - others) if setup.checkpointing else copies


def _activations(shape: ModelShape, batch: MicroBatch, setup: TrainingSetup) -> float:
    """Bytes saved for the backward pass; with checkpointing every layer's input, and one layer whole.

    Attention keeps queries, its result, and keys and values spread over all heads.
    """
    stream = 4 if setup.frozen_bytes == 4 else 2  # the residual stream has the weights' precision
    attention = batch.attended * (4 * shape.query_width + 2 * shape.key_width) + batch.mask
    layer = batch.tokens * _per_token(shape, setup, stream) + attention * setup.width
    ends = 3 * batch.tokens * shape.hidden * stream
    if setup.checkpointing:
        return layer + shape.layers * batch.tokens * shape.hidden * stream + ends
    return shape.layers * layer + ends


def _per_token(shape: ModelShape, setup: TrainingSetup, stream: int) -> float:
    """Bytes of one token in one layer, without attention: two norms, the inputs of the linear layers, the gated MLP.

    Under autocast every linear layer keeps its own cast of its input; in float32 those with the same input share it.
    """
    norms = 2 * shape.hidden * (4 + (0 if setup.lora or setup.soft_prompt else stream))
    if setup.soft_prompt:  # frozen layers keep no input, only what the gated MLP and the norms need
        return norms + 3 * shape.intermediate * setup.width
    if setup.lora:  # frozen layers keep no input; the adapter of each keeps a dropout mask and its own cast
        kept = (6 * shape.hidden + shape.intermediate) * (setup.dropout_bytes + setup.width)
        return norms + kept + 3 * shape.intermediate * setup.width
    inputs = (6 if setup.width != stream else 3) * shape.hidden * setup.width
    return norms + inputs + 4 * shape.intermediate * setup.width
