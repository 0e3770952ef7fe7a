"""Checkpoints that were damaged, and runs that were started twice: one line, and no number out of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType
from safetensors.torch import load_file, save_file

from stoical.runs.checkpoints import check_unchanged, damaged_files, read_record
from stoical.runs.find import find_checkpoint
from stoical.runs.lock import only_run
from tests.support.commands import run
from tests.support.small_data import TINY
from tests.support.tiny_run import save_adapter, train_tiny

LINE = "error: "


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run's checkpoint, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run")) / "checkpoint-3"


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that fails says, which must be one line."""
    assert run(*words) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith(LINE), text
    assert "\n" not in text
    return text


def flip(path: Path) -> None:
    """Change one byte in the middle; the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_as_saved_passes(copy: Path) -> None:
    check_unchanged(copy)
    assert damaged_files(copy, read_record(copy)) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "recipe.yaml"])
def test_a_flipped_bit_is_seen_by_what_loads_a_checkpoint(copy: Path, name: str, capsys) -> None:
    flip(copy / name)
    for words in (
        ["evaluate", f"checkpoint={copy}"],
        ["export", f"checkpoint={copy}", f"output={copy.parent / 'out'}"],
    ):
        assert name in one_line(capsys, *words)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_flipped_bit_is_seen_by_a_run_that_resumes(trained: Path, copy: Path, name: str, capsys) -> None:
    flip(copy / name)
    own = [f"data.path={trained.parent / 'data'}", f"output={copy.parent}", "resume=auto", "training.max_steps=6"]
    words = {word.partition("=")[0]: word for word in ["recipe=wordnet_alpha2,small", *TINY, *own]}
    assert name in one_line(capsys, "train", *words.values())


def test_optimizer_states_may_be_deleted_to_save_space(copy: Path) -> None:
    (copy / "optimizer.pt").unlink()
    assert find_checkpoint(str(copy)) == copy


def test_a_card_may_be_edited(copy: Path) -> None:
    (copy / "README.md").write_text("mine")
    check_unchanged(copy)
    assert find_checkpoint(str(copy)) == copy


@pytest.mark.parametrize("text", ["null", "[]", "", "{}", '{"files": []}'])
def test_a_record_that_is_none_is_one_line(copy: Path, text: str, capsys) -> None:
    (copy / "resume.json").write_text(text)
    assert "resume.json" in one_line(capsys, "evaluate", f"checkpoint={copy}")


@pytest.mark.parametrize("text", ["", "null", "# nothing\n"])
def test_an_empty_recipe_is_not_the_papers_defaults(copy: Path, text: str, capsys) -> None:
    (copy / "resume.json").unlink()  # as in a checkpoint that somebody put together
    (copy / "recipe.yaml").write_text(text)
    assert "recipe.yaml is empty" in one_line(capsys, "evaluate", f"checkpoint={copy}")


def test_a_tensor_that_is_missing_is_named(copy: Path, capsys) -> None:
    (copy / "resume.json").unlink()
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    said = one_line(capsys, "evaluate", f"checkpoint={copy}")
    assert "lacks model.layers.0.mlp.down_proj.weight" in said


def test_whole_numbers_are_no_weights(copy: Path, capsys) -> None:
    (copy / "resume.json").unlink()
    weights = {name: tensor.to(torch.int32) for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "whole numbers in place of weights" in one_line(capsys, "evaluate", f"checkpoint={copy}")


@pytest.mark.parametrize("size", [0, 7, 4000])
def test_truncated_weights_are_one_line(copy: Path, size: int, capsys) -> None:
    (copy / "resume.json").unlink()
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "model.safetensors is damaged" in one_line(capsys, "evaluate", f"checkpoint={copy}")


def test_a_config_that_asks_for_more_layers_is_refused(copy: Path, capsys) -> None:
    (copy / "resume.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    config["num_hidden_layers"] += 1
    config.pop("layer_types", None)
    (copy / "config.json").write_text(json.dumps(config))
    assert "which config.json asks for" in one_line(capsys, "evaluate", f"checkpoint={copy}")


def test_a_config_of_other_sizes_is_refused_with_a_tensor(copy: Path, capsys) -> None:
    (copy / "resume.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    said = one_line(capsys, "evaluate", f"checkpoint={copy}")
    assert "holds model.layers.0.mlp.down_proj.weight [16, 24], not [16, 32]" in said


def test_layers_that_the_config_leaves_out_are_named(copy: Path, capsys) -> None:
    """A model cut short by its config would score, and otherwise."""
    (copy / "resume.json").unlink()
    weights = load_file(copy / "model.safetensors")
    deeper = {
        name.replace("layers.0.", "layers.1."): value.clone() for name, value in weights.items() if "layers.0." in name
    }
    save_file(weights | deeper, copy / "model.safetensors", metadata={"format": "pt"})
    for words in (["evaluate"], ["export", f"output={copy.parent / 'out'}"]):
        said = one_line(capsys, *words, f"checkpoint={copy}")
        assert "model.layers.1.input_layernorm.weight" in said
        assert "config.json has no place" in said


def test_weights_that_are_not_numbers_are_said_to_be_broken(copy: Path, capsys) -> None:
    (copy / "resume.json").unlink()
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    for words in (["evaluate"], ["export", f"output={copy.parent / 'out'}"]):
        assert "weights are broken" in one_line(capsys, *words, f"checkpoint={copy}")


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A checkpoint that holds LoRA adapters alone, to be damaged; nothing has its sums."""
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj", "v_proj"])
    return save_adapter(trained, tmp_path / "lora", config) / "checkpoint-7"


def _more_layers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {name.replace("layers.0.", "layers.5."): value.clone() for name, value in weights.items()}


ADAPTERS = {  # what becomes of the weights -> what is said
    "whole numbers in place of weights": lambda weights: {name: value.int() for name, value in weights.items()},
    "layers.5.self_attn.q_proj.lora_A.weight": _more_layers,
    "missing adapter keys": lambda weights: dict([*weights.items()][1:]),
}


@pytest.mark.parametrize("said", ADAPTERS)
def test_weights_of_an_adapter_that_are_not_its_own_are_refused(adapter: Path, said: str, capsys) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(ADAPTERS[said](load_file(path)), path)
    assert said in one_line(capsys, "evaluate", f"checkpoint={adapter}")


def test_an_adapter_without_weights_is_refused_by_name(adapter: Path, capsys) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in one_line(capsys, "evaluate", f"checkpoint={adapter}")


@pytest.mark.parametrize("text", ["null", "[]", "{}", '{"peft_type": "NOPE"}', ""])
def test_an_adapters_config_that_is_none_is_one_line(adapter: Path, text: str, capsys) -> None:
    (adapter / "adapter_config.json").write_text(text)
    for words in (["evaluate"], ["export", f"output={adapter.parent / 'out'}"], ["rank"]):
        assert f"adapter {adapter}: " in one_line(capsys, *words, f"checkpoint={adapter}")


def test_an_output_layer_that_is_not_numbers_has_no_capacity(copy: Path, capsys) -> None:
    (copy / "resume.json").unlink()
    weights = load_file(copy / "model.safetensors")
    weights["model.embed_tokens.weight"][5] = float("nan")  # the head's, too
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    said = one_line(capsys, "capacity", f"checkpoint={copy}", f"output={copy.parent / 'out'}")
    assert f"{copy} has an output layer of numbers that are not finite" in said


@pytest.mark.parametrize("text", ["null", "[]", "{}", '{"version": 1}', '"x"'])
def test_a_tokenizer_that_is_none_is_one_line(copy: Path, text: str, capsys) -> None:
    (copy / "resume.json").unlink()
    (copy / "tokenizer.json").write_text(text)
    assert "tokenizer" in one_line(capsys, "evaluate", f"checkpoint={copy}")


def test_a_second_run_in_a_run_directory_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    with (
        only_run(tmp_path / "run"),
        pytest.raises(ValueError, match="another run is writing to"),
        only_run(tmp_path / "run"),
    ):
        raise AssertionError("two runs in one directory")
    with only_run(tmp_path / "run"):
        pass
