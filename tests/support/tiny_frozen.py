"""A tiny random model behind a tokenizer of its own, for soft prompts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from stoical.encoding.tokenization import save_tokenizer, train_bpe
from stoical.soft_prompts.frozen import Frozen
from tests.support.tiny_model import tiny_model

TEXTS = ("a small cat sat", "the dog", "cats and dogs and cats")


@cache
def small_tokenizer() -> PreTrainedTokenizerBase:
    return train_bpe(TEXTS * 3, 300)


def tiny_frozen(seed: int = 0, dtype: torch.dtype = torch.float32, **config: object) -> Frozen:
    """Weights large enough that prompts of a few vectors can make it write short texts."""
    shape = {"vocab_size": len(small_tokenizer()), "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
    model = tiny_model("sdpa", seed, **(shape | config))
    return Frozen(model.to(dtype).eval().requires_grad_(False), small_tokenizer())


def encoded(*texts: str) -> list[list[int]]:
    """Ids with EOS."""
    tokenizer = small_tokenizer()
    return [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in texts or TEXTS]


def save_frozen(directory: Path, **config: object) -> Path:
    """The model and its tokenizer as a directory that `model.name` may name."""
    frozen = tiny_frozen(**config)
    frozen.model.save_pretrained(directory)
    save_tokenizer(frozen.tokenizer, directory)
    return directory
