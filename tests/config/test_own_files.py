"""Recipes and overlays of one's own, by path and from anywhere; and names that other programs have for a setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoical.config.loading import MEANT, load_recipe
from stoical.config.recipe import Recipe


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user is in, with a recipe and an overlay of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed: 5\ntraining:\n  max_steps: 7\n")
    (tmp_path / "tiny.yml").write_text("training: {max_steps: 2}\n")
    return tmp_path


def test_a_file_is_a_recipe(mine: Path) -> None:
    for name in ("mine.yaml", "./mine.yaml", str(mine / "mine.yaml")):
        for recipe in (load_recipe(name), load_recipe(f"recipe={name}")):
            assert (recipe.seed, recipe.training["max_steps"], recipe.output) == (5, 7, "runs/mine")
            assert recipe.training["learning_rate"] == 1e-5, "the rest is the default"


def test_a_file_is_an_overlay(mine: Path) -> None:
    recipe = load_recipe("wordnet_alpha2", "small", "./mine.yaml", "tiny.yml")
    assert (recipe.seed, recipe.training["max_steps"], recipe.tokenizer.name) == (5, 2, "bpe")
    assert recipe.output == "runs/wordnet_alpha2-small-mine-tiny"
    assert load_recipe("recipe=wordnet_alpha2,small,./mine.yaml,tiny.yml") == recipe


def test_a_shipped_overlay_goes_over_a_file(mine: Path) -> None:
    recipe = load_recipe("recipe=mine.yaml,small", "seed=6")
    assert (recipe.seed, recipe.training["max_steps"]) == (6, 600)


def test_names_and_settings_are_words_in_any_order(mine: Path) -> None:
    words = ["wordnet_alpha2", "small", "seed=1"]
    assert (
        load_recipe(*words) == load_recipe(*words[::2], "small") == load_recipe("seed=1", "recipe=wordnet_alpha2,small")
    )


BAD = {
    "no such file": ("./nothing.yaml", "recipe=./nothing.yaml: there is no such file"),
    "a folder": ("./", "recipe=./: there is no such file"),
    "its name alone": (
        "mine",
        "recipe 'mine' does not exist. `stoical recipes` lists them; a file of your own is given",
    ),
    "a key of it": ("bad.yaml", "bad.yaml: setting 'sede' does not exist. Did you mean 'seed'?"),
    "a key of a library": ("library.yaml", "'training.max_step' does not exist. Did you mean 'training.max_steps'?"),
    "a type of it": ("type.yaml", "type.yaml: seed: Value 'x'"),
    "not YAML": ("broken.yaml", "broken.yaml: while parsing"),
    "not a mapping": ("list.yaml", "list.yaml is not a mapping of settings"),
    "not text": ("binary.yaml", "binary.yaml: "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_names_the_file(case: str, mine: Path) -> None:
    texts = {"bad": "sede: 1", "library": "training: {max_step: 1}", "type": "seed: x", "broken": "a: [", "list": "- a"}
    for name, text in texts.items():
        (mine / f"{name}.yaml").write_text(text)
    (mine / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    name, message = BAD[case]
    for words in ([name], [f"recipe=wordnet_alpha2,{name}"] if case != "its name alone" else [name]):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
            load_recipe(*words)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


NEAR = {
    **MEANT,
    "learning_rate": "training.learning_rate",
    "max_steps": "training.max_steps",
    "num_train_epochs": "training.num_train_epochs",
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "weight_decay": "training.weight_decay",
    "max_length": "prompt.max_length",
    "template": "prompt.template",
    "target_modules": "lora.target_modules",
    "traning.learning_rate": "training.learning_rate",
}


@pytest.mark.parametrize("name", NEAR)
def test_a_name_of_other_programs_leads_to_the_one_here(name: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
        load_recipe("wordnet_alpha2", f"{name}=1")
    assert str(caught.value).startswith("command line: ")
    assert f"Did you mean '{NEAR[name]}'?" in str(caught.value)


@pytest.mark.parametrize("key", sorted(set(MEANT.values())))
def test_what_is_suggested_exists(key: str) -> None:
    values = {"model.name": "x", "data.path": "x", "output": "x", "training.lr_scheduler_type": "linear"}
    more = {"resume": ["resume_force=true"], "training.num_train_epochs": ["training.max_steps=-1"]}.get(key, [])
    recipe = ["wordnet_alpha2"] if key == "loss.alpha" else ["wordnet_beta1"]
    value = {"training.bf16": "false", "resume": "auto"}.get(key, values.get(key, "1"))
    assert isinstance(load_recipe(*recipe, f"{key}={value}", *more), Recipe)
