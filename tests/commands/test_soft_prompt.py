"""`stoical soft-prompt`: from a file of texts to peft checkpoints and results, again, and every mistake in one line."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from stoical.encoding.tokenization import save_tokenizer
from stoical.soft_prompts import run as module
from tests.support.tiny_frozen import TEXTS, save_frozen, small_tokenizer

QUICK = ("steps=20", "vectors=3", "learning_rate=0.2", "check_every=5")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_frozen(tmp_path_factory.mktemp("base") / "model", max_position_embeddings=20)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def test_a_run_and_the_same_again(cli, base, texts, tmp_path):
    out = tmp_path / "out"
    words = (f"model.name={base}", f"targets={texts}", f"output={out}", *QUICK, "batch_size=2", "decoders=greedy,trie")
    code, printed, _ = cli("soft-prompt", *words)
    assert code == 0
    assert "3 targets" in printed
    assert "the frozen weights are unchanged, bit for bit" in printed
    results = json.loads((out / "results.json").read_text())
    assert [row["target"] for row in results["targets"]] == [*TEXTS]
    assert results["frozen_unchanged"]
    assert results["stop_margin"] >= 2 * results["difference"]
    for row in results["targets"]:
        assert row["exact"] == row["decoders"]["greedy"]["exact"]
        assert (out / row["prompt"] / "adapter_model.safetensors").is_file()
        assert row["exact"] == (row["written"] == row["target"] and row["right_tokens"] == row["tokens"])
    saved = {path: path.read_bytes() for path in sorted((out / "prompts").rglob("*.safetensors"))}
    code, again, _ = cli("soft-prompt", *words, "save_every=3")
    assert (code, again) == (0, printed)
    assert {path: path.read_bytes() for path in saved} == saved
    code, _, said = cli("soft-prompt", *words, "seed=3")
    assert code == 2
    assert "holds a run of other settings: settings.seed: 0 -> 3" in said


def test_a_checkpoint_of_another_base_model_is_refused(cli, base, texts, tmp_path):
    other = save_frozen(tmp_path / "model", seed=1, max_position_embeddings=20)
    out = tmp_path / "out"
    words = (f"targets={texts}", f"output={out}", *QUICK)
    assert cli("soft-prompt", f"model.name={base}", *words)[0] == 0
    code, _, said = cli("soft-prompt", f"model.name={other}", *words)
    assert code == 2
    assert "holds prompts of another base model" in said
    assert said.count("\n") == 1


def test_a_recipe_comes_below_the_command_line(cli, base, tmp_path):
    (tmp_path / "mine.yaml").write_text("objective: margin\nmargin: {margin: 3.0}\nvectors: 2\nsteps: 5\n")
    out = tmp_path / "out"
    code, _, said = cli(
        "soft-prompt", f"model.name={base}", "target=the: dog, [cat] # 007", f"recipe={tmp_path / 'mine.yaml'}",
        "margin.margin=4", f"output={out}", "steps=3",
    )  # fmt: skip
    assert code == 0, said
    settings = json.loads((out / "settings.json").read_text())["settings"]
    assert (settings["vectors"], settings["steps"], settings["margin"]["margin"]) == (2, 3, 4.0)
    assert settings["target"] == "the: dog, [cat] # 007"


@pytest.mark.parametrize("name", ["combined", "combined_rl", "growing"])
def test_the_recipes_that_ship_run(cli, base, tmp_path, name):
    words = (f"model.name={base}", "target=the dog", f"recipe={name}", f"output={tmp_path / 'out'}", *QUICK)
    assert cli("soft-prompt", *words)[0] == 0


MISTAKES = {
    "target=": "target is empty: there is nothing to write",
    "target=one targets=two": "target and targets are both given",
    "steps=3": "give target=TEXT, or targets=FILE",
    "targets=/nowhere": "targets=/nowhere: there is no such file",
    "targets={folder}/blank.txt": "blank.txt has no text in it",
    "targets={folder}/long.txt": "long.txt:2: ",
    "target=cat vectors=0": "vectors=0 must be at least 1",
    "target=cat vectors=20": "vectors=20: the model has 20 positions, so no text fits",
    "target=cat objective=growin": "Did you mean 'growing'?",
    "target=cat objective=growing:0.5": "must be above 0 and make 1 together",
    "target=cat objective=growing:x": "'x' is not a share of the steps",
    "target=cat margin.margin=3": "margin.margin has no effect with objective=worst_position",
    "target=cat decoders=beams": "Did you mean 'beam'?",
    "target=cat recipe=combind": "Did you mean 'combined'?",
    "target=cat recipe=./none.yaml": "recipe=./none.yaml: there is no such file",
    "target=cat init=text": "init_text=TEXT goes with init=text",
    "target=cat init=/nowhere": "init=/nowhere is neither vocabulary, random or text",
    "target=cat learning_rate=0": "learning_rate=0.0 must be a finite number above 0",
    "target=cat scheduled_sampling.schedule=constant objective=scheduled_sampling": "half_step=null with constant",
    "target=cat scheduled_sampling.half_step=7.5 objective=scheduled_sampling": "scheduled_sampling.half_step=7.5",
    "target=cat model.download=true": "model.download=true has no effect",
    "target=cat output={folder}": "holds something else than soft prompts",
    "target=cat vector=3": "Did you mean 'vectors'?",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(cli, base, tmp_path, words):
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "long.txt").write_text("the cat\n" + "cats and dogs and " * 5)
    given = [word.replace("{folder}", str(tmp_path)) for word in words.split()]
    out = [] if any(word.startswith("output=") for word in given) else [f"output={tmp_path / 'out'}"]
    code, _, said = cli("soft-prompt", f"model.name={base}", *given, *out)
    assert code == 2, said
    last = said.splitlines()[-1]
    assert last.startswith("error: ")
    assert MISTAKES[words] in last


def test_a_start_that_is_refused_leaves_the_directory_free(cli, base, tmp_path):
    saved, out = tmp_path / "saved", tmp_path / "out"
    words = (f"model.name={base}", "target=cat", f"output={out}", *QUICK)
    saved.mkdir()
    (saved / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    code, _, said = cli("soft-prompt", *words, f"init={saved}")
    assert (code, "holds LORA" in said) == (2, True)
    assert cli("soft-prompt", *words)[0] == 0


def test_a_settings_file_of_something_else_is_refused_as_that(cli, base, tmp_path):
    (tmp_path / "settings.json").write_text('{"settings": "of an editor"}')
    code, _, said = cli("soft-prompt", f"model.name={base}", "target=cat", f"output={tmp_path}", *QUICK)
    assert (code, "holds something else than soft prompts" in said) == (2, True)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_broken_weights_are_one_line(cli, tmp_path, name):
    base = save_frozen(tmp_path / "model")
    weights = load_file(base / "model.safetensors")
    weights[name].view(-1)[-1] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    code, _, said = cli("soft-prompt", f"model.name={base}", "target=a cat", f"output={tmp_path / 'out'}", *QUICK)
    assert (code, said.count("\n")) == (2, 1)
    assert "gives numbers that are not finite; its weights are broken" in said
    assert not (tmp_path / "out" / "settings.json").exists()


@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_settings_file_with_odd_settings_is_one_line(cli, base, tmp_path, value):
    (tmp_path / "settings.json").write_text(json.dumps({"base_xxh3": "0", "settings": value}))
    code, _, said = cli("soft-prompt", f"model.name={base}", "target=a cat", f"output={tmp_path}", *QUICK)
    assert (code, said.count("\n")) == (2, 1)
    assert "holds prompts of another base model" in said


def test_models_that_cannot_be_used_are_one_line(cli, base, tmp_path):
    out = f"output={tmp_path / 'out'}"
    code, _, said = cli("soft-prompt", "target=cat", out)
    assert (code, said.count("\n")) == (2, 1)
    assert "give model.name=" in said
    code, _, said = cli("soft-prompt", f"model.name={tmp_path / 'none'}", "target=cat", out)
    assert (code, said.count("\n")) == (2, 1) and said.endswith("none: no such directory\n")
    (tmp_path / "empty").mkdir()
    code, _, said = cli("soft-prompt", f"model.name={tmp_path / 'empty'}", "target=cat", out)
    assert (code, said.count("\n")) == (2, 1)
    assert said.endswith("empty is a directory without a model: config.json is not in it\n")
    (tmp_path / "empty" / "checkpoint-3").mkdir()
    _, _, said = cli("soft-prompt", f"model.name={tmp_path / 'empty'}", "target=cat", out)
    assert said.endswith(f"it is the directory of a run: take a checkpoint, such as {tmp_path}/empty/checkpoint-3\n")
    endless = tmp_path / "endless"
    AutoConfig.from_pretrained(base).save_pretrained(endless)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))).save_pretrained(endless)
    code, _, said = cli("soft-prompt", f"model.name={endless}", "target=cat", out)
    assert (code, said.count("\n")) == (2, 1)
    assert "has no EOS token" in said


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mamba", "does not support an attention implementation"),
        ("ctrl", "take another model"),
        ("minimax", "keeps a recurrent state"),
        ("roberta", "the training forward and generate differ by"),  # it counts positions from 2 where none are given
    ],
)
def test_architectures_that_cannot_be_run_are_one_line(cli, tmp_path, kind, message):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "n_embd": 16, "n_layer": 1, "n_head": 2, "dff": 16}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16}
    small |= {"initializer_range": 0.5, "is_decoder": True}
    known = set(AutoConfig.for_model(kind).to_dict())
    config = AutoConfig.for_model(kind, vocab_size=300, **{key: size for key, size in small.items() if key in known})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    save_tokenizer(small_tokenizer(), tmp_path / "model")
    code, _, said = cli("soft-prompt", f"model.name={tmp_path / 'model'}", "target=cat", f"output={tmp_path / 'out'}")
    assert code == 2, said
    assert f"model.name={tmp_path / 'model'}: " in said.splitlines()[-1]
    assert message in said.splitlines()[-1]


def test_without_wordnet_the_small_model_says_what_to_do(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GLOSS_DIRECTORY", tmp_path / "glosses")
    monkeypatch.setattr("data_prep.wordnet.glosses.has_corpus", lambda: False)
    code, _, said = cli("soft-prompt", "model.name=glosses", "target=cat", f"output={tmp_path / 'out'}")
    assert code == 2
    assert "model.name=glosses is trained on WordNet's glosses, which NLTK does not find" in said
    assert "NLTK_DATA" in said
