"""`stoical recipes`: the list, a recipe with where each value is from, and every setting explained."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from stoical.common.options import keys_of
from stoical.config.libraries import CLASSES, library_fields
from stoical.config.loading import list_recipes, load_recipe
from stoical.config.recipe import Recipe
from stoical.config.training_fields import ACTS, HARMLESS, OWNED, REFUSED

Cli = Callable[..., tuple[int, str, str]]
SHOWN = [
    ["wordnet_alpha2"],
    ["wordnet_alpha2,small", "training.max_steps=5"],
    ["wordnet_alpha2,small", "margin", "lora.r=3", "lora.target_modules=[q_proj]"],
    ["wordnet_alpha2,qlora"],
    ["wordnet_beta2,small,bash", "output=elsewhere"],
    ["recipe=esci_ntp,small,esci_small"],
]


def test_the_list_has_every_recipe_and_overlay_with_a_line(cli: Cli) -> None:
    code, out, err = cli("recipes")
    assert (code, err) == (0, "")
    assert cli("recipes", "list") == (0, out, "")
    listed = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in listed] == [*list_recipes(), *list_recipes("overlays")]
    assert all(len(text) > 20 and not text.startswith("#") for _, text in listed)


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_what_is_shown_loads_back_as_the_same_recipe(words: list[str], cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("recipes", "show", *words)
    assert (code, err) == (0, "")
    (tmp_path / "shown.yaml").write_text(out)
    names = [name for word in words for name in (word.split(",") if "=" not in word else [word])]
    assert load_recipe(str(tmp_path / "shown.yaml")) == load_recipe(*names)


def origins_of(text: str) -> dict[str, str]:
    """Dotted key to what its comment says."""
    found, path = {}, []
    for line in text.splitlines():
        indent, name, origin = re.fullmatch(r"( *)([^ :]+):.*?(?:  # (.*))?", line).groups()
        path = [*path[: len(indent) // 2], name]
        if origin:
            found[".".join(path)] = origin
    return found


def test_every_value_says_where_it_is_from(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# Mine.\nseed: 5\nlora: {r: 4}\ntraining: {max_steps: 7}\n")
    _, out, _ = cli("recipes", "show", f"wordnet_alpha2,small,{mine}", "training.learning_rate=1e-4", "eval.mode=exact")
    found = origins_of(out)
    assert {key: found[key] for key in ("seed", "lora.r", "training.max_steps")} == dict.fromkeys(
        ("seed", "lora.r", "training.max_steps"), str(mine)
    )
    assert found["training.learning_rate"] == found["eval.mode"] == "command line"
    assert found["loss.alpha"].endswith("recipes/wordnet_alpha2.yaml")
    assert found["model.config.hidden_size"].endswith("recipes/overlays/small.yaml")
    assert found["prompt.max_length"].endswith("recipes/overlays/small.yaml")
    assert found["layout"] == found["training.weight_decay"] == "default"
    values = yaml.safe_load(out)
    assert (values["seed"], values["training"]["max_steps"], values["training"]["learning_rate"]) == (5, 7, 1e-4)


def test_mistakes(cli: Cli) -> None:
    for words, message in (
        (["shw"], "word 'shw' does not exist. Did you mean 'show'?"),
        (["show"], "give what to show: stoical recipes show NAME[,OVERLAY,...] [key=value ...]"),
        (["show", "wordnet_alpha22"], "recipe 'wordnet_alpha22' does not exist. Did you mean 'wordnet_alpha2'?"),
        (["show", "wordnet_alpha2", "sed=1"], "command line: setting 'sed' does not exist. Did you mean 'seed'?"),
        (["keys", "trainin"], "section 'trainin' does not exist. Did you mean 'training'?"),
    ):
        code, out, err = cli("recipes", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}")


def explained(text: str) -> dict[str, str]:
    """Key to its help, of `stoical recipes keys`; the first line of each says type and default."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(\S+)  (.+?) = .*", line):
            found[match[1]] = ""
        elif line.startswith("    "):
            found[next(reversed(found))] += f"{line.strip()} "
    return {key: words.strip() for key, words in found.items()}


def test_every_setting_is_explained_those_of_sections_that_are_off_too(cli: Cli) -> None:
    code, out, err = cli("recipes", "keys")
    assert (code, err) == (0, "")
    found = explained(out)
    own = {key.name: " ".join(key.help.split()) for key in keys_of(Recipe)}
    assert found == own
    assert all(len(words) > 3 for words in own.values())
    assert {"mitigations.margin.kind", "self_training.rac.temperature", "lora", "eval.diagnostics"} <= own.keys()
    assert "stoical recipes keys training" in out.splitlines()[-1]


def test_a_section_alone(cli: Cli) -> None:
    found = explained(cli("recipes", "keys", "mitigations.margin")[1])
    assert found.keys() == {key.name for key in keys_of(Recipe) if key.name.startswith("mitigations.margin.")}
    assert explained(cli("recipes", "keys", "seed")[1]).keys() == {"seed"}


@pytest.mark.parametrize("name", CLASSES)
def test_the_fields_of_other_libraries_are_explained(name: str, cli: Cli) -> None:
    section = CLASSES[name][1]
    code, out, _ = cli("recipes", "keys", section)
    assert code == 0
    assert explained(out).keys() == {section, *(f"{section}.{field}" for field in library_fields(name))}


def test_every_field_of_training_says_whether_it_acts(cli: Cli) -> None:
    found = explained(cli("recipes", "keys", "training")[1])
    for fields, said in (
        ({name: f"{owner} sets it." for name, owner in OWNED.items() if owner}, "Refused: "),
        ({name: f"{reason}." for name, reason in REFUSED.items()}, "Refused: "),
        (dict.fromkeys(HARMLESS, ""), "Harmless: "),
        (dict.fromkeys(ACTS, ""), "Acts"),
    ):
        for name, reason in fields.items():
            assert found[f"training.{name}"].startswith(said + reason), name
    assert "Acts with optimizer=trainer." in found["training.optim"]
    assert not any("Newer than" in words for words in found.values())
