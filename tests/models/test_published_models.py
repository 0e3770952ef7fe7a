"""Models as people publish them: settings that contradict each other, code of their own, text models inside others."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_utils import align_special_tokens

from stoical.build.model import build_config, build_model, build_trainable
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.encoding.tokenization import load_tokenizer, train_bpe

SHAPE = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8},
    **{"num_key_value_heads": 2, "sliding_window": None},
}


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return train_bpe(["a b c"], 300)


@pytest.fixture
def published(tmp_path: Path, bpe: PreTrainedTokenizerFast) -> Path:
    config = AutoConfig.for_model("mistral", vocab_size=len(bpe), **SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    bpe.save_pretrained(tmp_path)
    return tmp_path


def recipe_of(directory: Path) -> Recipe:
    own = [f"model.name={directory}", f"tokenizer.name={directory}"]
    return load_recipe("wordnet_alpha2", "prompt.max_length=64", *own)


def test_generation_settings_that_contradict_each_other_do_not_end_a_run_at_its_first_checkpoint(
    published: Path, bpe: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    (published / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 5}))
    recipe = recipe_of(published)
    with caplog.at_level(logging.WARNING):
        model = build_trainable(recipe, build_config(recipe, bpe))
    assert "generation_config.json contradicts itself" in caplog.text
    align_special_tokens(model, bpe)  # as the trainer does
    model.save_pretrained(published / "saved")
    kept = json.loads((published / "saved" / "generation_config.json").read_text())
    assert {key: value for key, value in kept.items() if key.endswith(("_id", "_p", "temperature"))} == {
        "bos_token_id": bpe.bos_token_id,
        "eos_token_id": [bpe.eos_token_id, 5],
    }


def test_generation_settings_that_agree_are_kept(published: Path, bpe: PreTrainedTokenizerFast) -> None:
    settings = {"temperature": 0.6, "do_sample": True, "eos_token_id": 5}
    (published / "generation_config.json").write_text(json.dumps(settings))
    recipe = recipe_of(published)
    assert build_trainable(recipe, build_config(recipe, bpe)).generation_config.temperature == 0.6


def test_code_of_a_models_own_is_refused_and_nobody_is_asked(
    published: Path, bpe: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (published / "config.json").write_text(json.dumps(own))
    (published / "code.py").write_text("raise AssertionError")
    monkeypatch.setattr(builtins, "input", lambda _: "y")
    with pytest.raises(ValueError, match="stoical runs none but its own; use a model of a kind that transformers has"):
        build_config(recipe_of(published), bpe)


def test_a_gated_model_is_refused_with_the_way_to_it(
    published: Path, bpe: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gated(name: str, **options: object) -> None:
        raise OSError(
            f"You are trying to access a gated repo.\nMake sure to have access to it at https://x/{name}.\n401"
        )

    monkeypatch.setattr(AutoConfig, "from_pretrained", gated)
    recipe = load_recipe("wordnet_alpha2", "model.name=some/model", f"tokenizer.name={published}")
    with pytest.raises(
        ValueError, match=r"a gated repo.*; ask for access at https://huggingface\.co/some/model, then log in"
    ):
        build_config(recipe, bpe)


def test_code_of_a_tokenizers_own_is_refused_and_nobody_is_asked(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}
    (published / "config.json").write_text(json.dumps({"model_type": "mine"}))
    (published / "tokenizer_config.json").write_text(json.dumps(own))
    (published / "code.py").write_text("raise AssertionError")
    monkeypatch.setattr(builtins, "input", lambda _: "y")
    with pytest.raises(ValueError, match="contains custom code"):
        load_tokenizer(str(published))


def test_a_text_model_inside_another_has_its_own_vocabulary_and_positions(
    tmp_path: Path, bpe: PreTrainedTokenizerFast
) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**SHAPE, "vocab_size": 300, "sliding_window": 64}
    pictures = {**vision, "image_size": 28, "patch_size": 14}  # 4 positions, of a picture's parts
    AutoConfig.for_model("gemma3", text_config=text, vision_config=pictures).save_pretrained(tmp_path)
    assert build_config(recipe_of(tmp_path), bpe).text_config.vocab_size == 300
    AutoConfig.for_model("gemma3", text_config=text | {"vocab_size": 10}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has ids for 266 tokens but the model's vocabulary only 10"):
        build_config(recipe_of(tmp_path), bpe)


def test_masks_that_an_earlier_transformers_saved_are_not_taken_for_weights(
    tmp_path: Path, bpe: PreTrainedTokenizerFast
) -> None:
    """Pythia's files hold them, as U8; whole numbers where weights should be are refused (tests.runs.test_damage)."""
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", vocab_size=len(bpe), **shape)).save_pretrained(
        tmp_path
    )
    held = load_file(tmp_path / "model.safetensors")
    mask = {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}
    save_file(held | mask, tmp_path / "model.safetensors", metadata={"format": "pt"})
    recipe = recipe_of(tmp_path)
    model = build_model(recipe, build_config(recipe, bpe))
    assert torch.equal(model.get_output_embeddings().weight, held["embed_out.weight"])


def in_four_bits(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-OSS as it is published: the experts in blocks of 32 weights of 4 bits, with a scale each."""
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            blocks = (experts, outputs, inputs // 32)
            packed[f"{name}_blocks"] = torch.randint(0, 255, (*blocks, 16), dtype=torch.uint8)
            packed[f"{name}_scales"] = torch.full(blocks, 125, dtype=torch.uint8)
        else:
            packed[name] = tensor.bfloat16()
    return packed


def in_eight_bits(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Qwen 3 and DeepSeek as they are published, too: float8, with a scale for 128 by 128 weights."""
    packed = dict(weights)
    for name, tensor in weights.items():
        if name.endswith("proj.weight"):
            packed[name] = tensor.to(torch.float8_e4m3fn)
            packed[f"{name}_scale_inv"] = torch.ones(1, 1)
    return packed


PACKED = {
    "gpt_oss": ("eager", in_four_bits, {"num_local_experts": 2}, {"quant_method": "mxfp4"}),
    "qwen3_moe": (
        "sdpa",
        in_eight_bits,
        {"num_experts": 2, "moe_intermediate_size": 32},
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    ),
}


@pytest.mark.parametrize("kind", PACKED)
def test_weights_that_are_unpacked_to_be_trained_are_saved_as_what_they_are(
    kind: str, tmp_path: Path, bpe: PreTrainedTokenizerFast
) -> None:
    """transformers 5.23 saves them under the packed ones' names, where it does not find them, or fails to save them."""
    attention, pack, own, quantization = PACKED[kind]
    shape = {**SHAPE, **own, "hidden_size": 32, "intermediate_size": 32, "num_experts_per_tok": 1}
    shape = {key: value for key, value in shape.items() if key != "sliding_window"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(bpe), **shape))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(pack(load_file(path)), path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    recipe = recipe_of(tmp_path)
    recipe.model.attn_implementation = attention
    trained = build_trainable(recipe, build_config(recipe, bpe))
    trained.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for name, weight in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_model_that_nothing_could_load_again_is_refused_before_it_trains(
    tmp_path: Path, bpe: PreTrainedTokenizerFast
) -> None:
    """transformers takes the text model out of Mllama, and has no AutoModelForCausalLM for what that is saved as."""
    text = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "pad_token_id": 0}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "cross_attention_layers": []}
    config = AutoConfig.for_model("mllama", text_config=text)
    config.save_pretrained(tmp_path)
    recipe = recipe_of(tmp_path)
    said = r"would be saved as 'mllama_text_model', which transformers has no causal language model for.*train adapters"
    with pytest.raises(ValueError, match=said):
        build_trainable(recipe, build_config(recipe, bpe))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)  # as published: the text model inside
    recipe.lora = {"r": 2, "target_modules": "all-linear"}
    assert isinstance(build_trainable(recipe, build_config(recipe, bpe)), PeftModel)


def test_the_directory_of_a_run_is_answered_with_a_checkpoint_in_it(
    published: Path, bpe: PreTrainedTokenizerFast
) -> None:
    inside = published / "run" / "checkpoint-3"
    inside.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"model.name=.*run: .*; it is the directory of a run: take .*checkpoint-3$"):
        build_config(recipe_of(published / "run"), bpe)
    with pytest.raises(ValueError, match=r"tokenizer.name=.*; it is the directory of a run: take .*checkpoint-3$"):
        load_tokenizer(str(published / "run"))
    (inside / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it holds an adapter and no model: set model.adapter to it, model.name"):
        build_config(recipe_of(inside), bpe)
