"""Prompts on disk are plain peft: a fresh model with `PeftModel.from_pretrained` writes the same text."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from stoical.soft_prompts.begin import first_prompts
from stoical.soft_prompts.decoders import written
from stoical.soft_prompts.export import WEIGHT, peft_writes, read_prompt, save_prompt
from stoical.soft_prompts.frozen import load_frozen
from stoical.soft_prompts.settings import ModelOptions, SoftPromptSettings
from tests.support.tiny_frozen import save_frozen


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_frozen(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def frozen(base):
    return load_frozen(ModelOptions(str(base)), "cpu")


@pytest.fixture(scope="module")
def prompts(frozen):
    given = SoftPromptSettings(ModelOptions("-"), target="-", vectors=3, init="random")
    return first_prompts(frozen, given, ["a", "b", "c"])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_plain_peft_writes_the_same(base, frozen, prompts, tmp_path, place):
    save_prompt(frozen, prompts[place], tmp_path / "prompt", {"target": "the dog"})
    ours = written(frozen, prompts, 8)[place]
    assert peft_writes(frozen, tmp_path / "prompt", 8) == ours
    fresh = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "prompt").eval()
    start = torch.tensor([[frozen.start]])
    told = fresh.generate(
        input_ids=start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=8,
        eos_token_id=frozen.eos, pad_token_id=frozen.eos,
    )[0, 1:].tolist()  # fmt: skip
    assert told[: len(ours)] == ours
    assert torch.equal(fresh.prompt_encoder["default"].embedding.weight, prompts[place])


def test_what_peft_itself_saves_has_the_same_files_and_keys(frozen, prompts, base, tmp_path):
    save_prompt(frozen, prompts[0], tmp_path / "ours", {})
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "theirs")
    ours, theirs = (json.loads((tmp_path / one / "adapter_config.json").read_text()) for one in ("ours", "theirs"))
    assert {key: ours[key] for key in theirs} == theirs
    assert (tmp_path / "theirs" / "adapter_model.safetensors").is_file()
    assert read_prompt(frozen, tmp_path / "theirs", 3).shape == prompts[0].shape


def test_a_saved_prompt_is_where_another_run_begins(frozen, prompts, tmp_path):
    save_prompt(frozen, prompts[1], tmp_path / "prompt", {})
    given = SoftPromptSettings(ModelOptions("-"), target="-", vectors=3, init=str(tmp_path / "prompt"))
    assert torch.equal(first_prompts(frozen, given, ["x", "y"]), prompts[1].repeat(2, 1, 1))


def test_a_prompt_of_another_model_shape_or_kind_is_refused(frozen, prompts, tmp_path):
    save_prompt(frozen, prompts[0], tmp_path / "prompt", {})
    with pytest.raises(ValueError, match="has 3 vectors of 32 numbers, and 5 of 32 are wanted"):
        read_prompt(frozen, tmp_path / "prompt", 5)
    with pytest.raises(ValueError, match=r"init=.*nowhere is neither vocabulary, random or text, nor a directory"):
        read_prompt(frozen, tmp_path / "nowhere", 3)
    config = json.loads((tmp_path / "prompt" / "adapter_config.json").read_text())
    for change, message in (
        ({"base_model_name_or_path": "gpt2"}, "was made for the model gpt2, and model.name="),
        ({"peft_type": "LORA"}, "holds LORA, not a prompt of prompt tuning"),
    ):
        (tmp_path / "prompt" / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            read_prompt(frozen, tmp_path / "prompt", 3)


DAMAGED = {
    "is missing": lambda path, _: path.unlink(),
    "is damaged: Error": lambda path, _: path.write_bytes(path.read_bytes()[:-9]),
    "whole numbers in place of weights": lambda path, prompt: save_file({WEIGHT: prompt.int()}, path),
    "must be vectors of finite numbers": lambda path, prompt: save_file({WEIGHT: prompt / 0}, path),
    "is damaged: prompt_embeddings must be vectors": lambda path, _: save_file({WEIGHT: torch.zeros(96)}, path),
    "'prompt_embeddings'": lambda path, prompt: save_file({"other": prompt}, path),
}


@pytest.mark.parametrize("said", DAMAGED)
def test_a_damaged_prompt_is_not_where_a_run_begins(frozen, prompts, tmp_path, said):
    save_prompt(frozen, prompts[0], tmp_path / "prompt", {})
    DAMAGED[said](tmp_path / "prompt" / "adapter_model.safetensors", prompts[0])
    with pytest.raises(ValueError, match=said):
        read_prompt(frozen, tmp_path / "prompt", 3)
