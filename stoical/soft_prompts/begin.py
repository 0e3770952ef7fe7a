"""Where prompts begin: tokens of the vocabulary, noise, a text, or prompts that were saved.

Dimension letters: B targets, n vectors of a prompt, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stoical.decoding.draws import uniform_draws
from stoical.encoding.tokenization import text_ids
from stoical.soft_prompts.export import read_prompt
from stoical.soft_prompts.frozen import Frozen
from stoical.soft_prompts.settings import SoftPromptSettings


@torch.no_grad()
def spread(frozen: Frozen) -> float:
    """The standard deviation of the model's token embeddings, as they are fed: the unit of prompts and step sizes."""
    tokens = torch.arange(len(frozen.tokenizer), device=frozen.model.device)
    return float(frozen.embed(tokens[None]).float().std())


def target_seeds(settings: SoftPromptSettings, encoded: Sequence[Sequence[int]]) -> list[str]:
    """What each target's random numbers are functions of: the run's seed and its own tokens."""
    return [f"{settings.seed} {' '.join(map(str, ids))}" for ids in encoded]


@torch.no_grad()
def first_prompts(frozen: Frozen, settings: SoftPromptSettings, seeds: Sequence[str]) -> Tensor:
    """[B, n, H] float32 prompts, each drawn by its own seed; from a text or a saved prompt, B times the same.

    Raises `ValueError` for a text without tokens, and for a saved prompt that does not fit.
    """
    count, device = settings.vectors, frozen.model.device
    if settings.init == "random":
        uniform = uniform_draws([f"{seed} vectors" for seed in seeds], count * frozen.width)
        normal = torch.special.ndtri(uniform.clamp(min=1e-9)).float().to(device)
        return spread(frozen) * normal.view(len(seeds), count, frozen.width)
    if settings.init == "vocabulary":
        tokens = uniform_draws([f"{seed} vectors" for seed in seeds], count) * len(frozen.tokenizer)
        return frozen.embed(tokens.long().to(device)).float()
    if settings.init == "text":
        ids = text_ids(frozen.tokenizer, str(settings.init_text), "init_text")
        if not ids:
            raise ValueError(f"init_text={settings.init_text} tokenizes to nothing")
        tokens = torch.tensor((ids * count)[:count], device=device)
        one = frozen.embed(tokens[None])[0].float()
    else:
        one = read_prompt(frozen, Path(settings.init), count).to(device)
    return one.repeat(len(seeds), 1, 1)
