"""The self-check sees what no config shows: a model that does not branch, or whose rows depend on each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertLMHeadModel

from stoical.models.self_check import check_loaded, probe_batch, self_check
from tests.support.architectures import Architecture
from tests.support.tiny_model import VOCAB, tiny_model


@pytest.mark.parametrize("layout", ["sequence", "cache"])
def test_a_sound_model_passes(layout) -> None:
    assert self_check(tiny_model().eval(), probe_batch(VOCAB, 60), layout, torch.float32) < 1e-4


def test_a_model_stays_in_the_mode_that_it_was_in() -> None:
    model = tiny_model().train()
    self_check(model, probe_batch(VOCAB, 60), "sequence", torch.float32)
    assert model.training


class OfTheBatch(nn.Module):
    """A model whose logits depend on how many tokens it is given, as routing with a capacity would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_model()
        self.config = self.inner.config

    def forward(self, input_ids, **kwargs):
        output = self.inner(input_ids=input_ids, **kwargs)
        output.logits = output.logits * (1.0 + 1e-3 * input_ids.numel())
        return output


def test_rows_that_depend_on_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="rows depend on each other"):
        self_check(OfTheBatch(), probe_batch(VOCAB, 60), "sequence", torch.float32)


def test_rotary_frequencies_of_the_longest_row_are_seen() -> None:
    """Beside a long row, a short one is scored with frequencies that it would not have alone."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    config = AutoConfig.for_model("llama", **shape, rope_parameters=rope, max_position_embeddings=16)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="trie_sdpa").eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3)
    with pytest.raises(ValueError, match="self-check"):
        self_check(model, probe_batch(100, 60), "sequence", torch.float32)


def test_an_encoder_is_refused_with_the_setting_that_makes_it_a_decoder() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertLMHeadModel(BertConfig(**shape, intermediate_size=16, initializer_range=0.5)).eval()
    with pytest.raises(ValueError, match=r"model\.config\.is_decoder=true"):
        check_loaded(model, 50, 40, "sequence", bf16=False)


def test_an_attention_that_fails_on_the_mask_is_named_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"fails on a trie.*attn_implementation=eager"):
        check_loaded(Architecture("doge", "trie_sdpa").build(), 100, 40, "sequence", bf16=False)
