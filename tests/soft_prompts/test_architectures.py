"""Other architectures behind prompts: the training forward, the cached loop, `generate` and plain peft agree."""

from __future__ import annotations

import pytest
import torch

from stoical.decoding.sampling import likeliest
from stoical.soft_prompts.decoders import numeric_difference, written
from stoical.soft_prompts.export import peft_writes, save_prompt
from stoical.soft_prompts.frozen import Frozen
from tests.support.architectures import ARCHITECTURES
from tests.support.tiny_frozen import small_tokenizer

KINDS = ("gpt2", "opt", "gemma3_text", "qwen3", "phi", "granite", "falcon")


@pytest.mark.parametrize("kind", KINDS)
def test_all_four_write_the_same(kind, tmp_path):
    (architecture,) = [one for one in ARCHITECTURES if one.kind == kind and one.refused is None]
    model = architecture.build()
    model.set_attn_implementation("sdpa")
    frozen = Frozen(model.requires_grad_(False), small_tokenizer())
    prompts = 0.3 * torch.randn(2, 3, frozen.width, generator=torch.Generator().manual_seed(0))
    assert numeric_difference(frozen, prompts, 6) < 1e-4
    rows = written(frozen, prompts, 6)
    assert rows[0] != rows[1]
    own = frozen.write(prompts, 6, likeliest).tolist()
    assert [mine[: len(row)] for mine, row in zip(own, rows, strict=True)] == rows
    for place, row in enumerate(rows):
        save_prompt(frozen, prompts[place], tmp_path / str(place), {})
        assert peft_writes(frozen, tmp_path / str(place), 6) == row
    prompt = prompts[:1].clone().requires_grad_()
    frozen.teacher_forced(prompt, torch.tensor([[5, 6, 2]]))[0].sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().min() > 0
