"""What the model writes by itself, over the whole vocabulary: greedy or sampled, up to EOS.

Dimension letters: B queries, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stoical.forward import PromptCache, check_model


@torch.no_grad()
def write_freely(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    eos: int,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[str],
) -> list[list[int]]:
    """The token ids that the model writes after each of B prompts, EOS included; without it where the limit cut them.

    temperature 0: the likeliest token at every step (of equals the smallest id); else samples of
    softmax(logits / temperature), by each query's own seed: what it writes depends neither on the others of the batch
    nor on the device's generator. The model runs in eval mode, over the prompts once and then a token a step. Raises
    `ValueError` for a model that cannot run as long as that.
    """
    check_model(model, max(map(len, prompts)) + max_new_tokens)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    generators = [torch.Generator().manual_seed(random.Random(seed).getrandbits(63)) for seed in seeds]
    lengths = torch.tensor([len(ids) for ids in prompts], device=device)
    input_ids = pad_sequence([torch.tensor(list(ids)) for ids in prompts], batch_first=True, padding_value=eos)
    cache = PromptCache(model, input_ids.to(device), lengths)
    written: list[list[int]] = [[] for _ in prompts]
    logits = cache.logits
    for _ in range(max_new_tokens):
        token = _pick(logits, temperature, generators)
        for ids, new in zip(written, token.tolist(), strict=True):
            if eos not in ids[-1:]:
                ids.append(new)
        if all(ids[-1] == eos for ids in written):
            break
        logits = cache.feed(token[:, None], torch.zeros_like(token)[:, None])[:, 0]
    model.train(training)
    return written


def _pick(logits: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    """[B] the next token of every query out of `logits` [B, V]; sampled by adding Gumbel noise before the argmax."""
    scores = logits.float()
    if temperature > 0:
        uniform = torch.stack([torch.rand(logits.shape[1], generator=generator) for generator in generators])
        tiny = torch.finfo(uniform.dtype).tiny
        noise = -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()
        scores = scores / temperature + noise.to(scores.device)
    return scores.argmax(dim=-1)
