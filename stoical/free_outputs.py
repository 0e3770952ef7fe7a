"""What the model writes by itself, over the whole vocabulary: greedy or sampled, up to EOS.

Dimension letters: B queries, T steps, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stoical.model_checks import check_model
from stoical.packing import PackedBatch
from stoical.self_training.drawing import drawn_tokens, write_freely


def free_outputs(
    model: nn.Module, batch: PackedBatch, eos: int, max_new_tokens: int, temperature: float, seeds: Sequence[str]
) -> list[list[int]]:
    """The token ids that the model writes after each of B prompts, EOS included; without it where the limit cut them.

    temperature 0: the likeliest token at every step; else samples of softmax(logits / temperature), by each query's own
    seed, so that an output does not depend on the others of the batch. The model runs in eval mode. Raises `ValueError`
    for a model that cannot run as long as that.
    """
    check_model(model, batch.prompt_width + max_new_tokens)
    generators = [random.Random(seed) for seed in seeds]
    uniform = torch.tensor([[own.random() for _ in range(max_new_tokens)] for own in generators], dtype=torch.float64)
    ended = torch.zeros(len(seeds), dtype=torch.bool)

    def choose(step: int, logits: Tensor) -> Tensor | None:
        if ended.all():
            return None
        tokens = drawn_tokens(logits, uniform[:, step], temperature)
        ended.logical_or_(tokens == eos)
        return tokens

    training = model.training
    model.eval()
    rows: list[list[int]] = write_freely(model, batch, max_new_tokens, choose).tolist()
    model.train(training)
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]
