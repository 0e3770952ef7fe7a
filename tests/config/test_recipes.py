"""recipes/: each one loads, alone and small; each is another loss; the paper's tables are all there."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import pytest

from stoical.common.places import shipped
from stoical.config.loading import list_recipes, load_recipe
from stoical.config.recipe import Recipe
from stoical.objectives.settings import LossSettings

RECIPES = shipped("recipes")
NAMES = [name for name in list_recipes() if "encoder" not in name]  # tests/config/test_encoders.py has the others
OVERLAYS = list_recipes("overlays")
SIZES = ["", ",small", ",small,quickstart", ",small,esci_small"]


@cache
def load(name: str, *extra: str) -> Recipe:
    """To be read, not to be changed."""
    return load_recipe(f"recipe={name}", *extra)


def test_the_recipes_are_those_in_the_folder() -> None:
    assert len(NAMES) >= 22
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(list_recipes())
    assert {"small", "quickstart"} <= set(OVERLAYS)


@pytest.mark.parametrize("overlays", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads(name: str, overlays: str) -> None:
    recipe = load(name + overlays)
    assert recipe.output == f"runs/{name}{overlays}".replace(",", "-")
    assert recipe.loss == load(name).loss, "an overlay of size changes no loss"
    assert recipe.data.path == ("data/mammal" if "quickstart" in overlays else load(name).data.path)


def test_small_is_small() -> None:
    recipe = load("wordnet_alpha2,small")
    assert recipe.model.from_scratch
    assert recipe.tokenizer.name == "bpe"
    assert recipe.model.config["sliding_window"] is None, "a default MistralConfig has 4096"
    assert recipe.model.config["max_position_embeddings"] > recipe.prompt.max_length
    assert recipe.training["bf16"] is False


@pytest.mark.parametrize(
    "words", [("wordnet_alpha2,small",), ("wordnet_alpha2", "small"), ("wordnet_alpha2", "recipe=small")]
)
def test_names_come_one_by_one_or_with_commas(words: tuple[str, ...]) -> None:
    assert load_recipe(*words) == load("wordnet_alpha2,small")


@pytest.mark.parametrize("overlay", ["lora", "qlora"])
def test_adapters_leave_the_loss_and_the_schedule_alone(overlay: str) -> None:
    plain, recipe = load("wordnet_alpha2"), load(f"wordnet_alpha2,{overlay}")
    assert (recipe.loss, recipe.model.name, recipe.global_batch_size) == (plain.loss, plain.model.name, 8)
    changed = {key for key, value in recipe.training.items() if plain.training.get(key) != value}
    assert changed == {"learning_rate", "optim"}
    assert recipe.lora is not None and recipe.lora["target_modules"] == "all-linear"
    assert (recipe.quantization is not None) == (overlay == "qlora")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_changes_something(overlay: str) -> None:
    with_small = "" if overlay in ("small", "qlora") else ",small"  # which has no weights to quantize
    assert load(f"wordnet_beta2{with_small},{overlay}", "output=x") != load(f"wordnet_beta2{with_small}", "output=x")


def test_supervised_fine_tuning_is_cross_entropy_a_token_on_the_prompt_alone() -> None:
    recipe = load("text_sft,small,chains")
    assert recipe.loss == LossSettings(item="indicator", token="one_hot", normalizer="weights") == load("text_sft").loss
    assert (recipe.prompt.template, load("text_sft").prompt.template) == ("plain", "plain")


def test_every_recipe_is_another_loss_or_other_data() -> None:
    losses = {name: (load(name).data.path, *dataclasses.astuple(load(name).loss)) for name in NAMES}
    assert len(set(losses.values())) == len(NAMES), losses


NTP = LossSettings(item="indicator", token="one_hot")
TABLE_1 = {
    "wordnet_ntp": NTP,
    **{f"wordnet_alpha{a}": LossSettings(item="fractional", alpha=a) for a in (1, 2, 3, 4, 5)},
    "wordnet_stepwise": LossSettings(item="stepwise"),
    **{f"wordnet_beta{b}": LossSettings(token="trie", beta=b) for b in (1, 2, 3, 4, 5)},
}
TABLE_3 = {
    f"wordnet_alpha2_beta{b}": LossSettings(item="fractional", alpha=2, token="trie", beta=b)
    for b in (1, 2, 3, 4, 5, 6, 7, 9, 25)
}
TABLE_2 = {"esci_ntp": NTP, **{f"esci_beta{b}": LossSettings(token="trie", beta=b) for b in (1, 2, 3, 4, 5)}}


@pytest.mark.parametrize("name", [*TABLE_1, *TABLE_2, *TABLE_3])
def test_the_rows_of_the_tables_are_there(name: str) -> None:
    assert load(name).loss == (TABLE_1 | TABLE_2 | TABLE_3)[name]


@pytest.mark.parametrize("name", [*TABLE_2, "esci_every_node", "esci_ranking"])
def test_esci_is_as_appendix_a1_says(name: str) -> None:
    """8,192 tokens, 10k steps of 32: 3.76 epochs over 85k. The metrics are Table 2's."""
    recipe = load(name)
    assert (recipe.data.path, recipe.prompt.template, recipe.prompt.max_length) == ("data/esci", "esci", 8192)
    assert (recipe.global_batch_size, recipe.training["max_steps"]) == (32, 10_000)
    assert recipe.training["learning_rate"] == 1e-5
    assert recipe.eval.recall_at == [1, 2, 5, 10, 25, 50]


def test_the_tables_have_all_their_rows() -> None:
    """Table 1: NTP, five alphas, stepwise, five betas. Table 2: NTP, five betas. Table 3: nine betas at alpha = 2."""
    assert (len(TABLE_1), len(TABLE_2), len(TABLE_3)) == (12, 6, 9)
    ours = {f"{data}_{kind}" for data in ("wordnet", "esci") for kind in ("every_node", "ranking")}
    assert {*TABLE_1, *TABLE_2, *TABLE_3, *ours, "text_sft"} == set(NAMES)
    for loss in (load("wordnet_every_node").loss, load("esci_every_node").loss):
        assert (loss.token, loss.beta, loss.visits) == ("every_node", 2, "uniform")
    for loss in (load("wordnet_ranking").loss, load("esci_ranking").loss):
        assert (loss.ranking, loss.ranking_alone) == ("list_mle", True)


@pytest.mark.parametrize("name", [*TABLE_1, *TABLE_3, "wordnet_every_node"])
def test_a_step_is_the_papers_64_points(name: str) -> None:
    """Appendix A.1: 10k steps of 64 are 7.65 epochs over 84k top-1 targets, and 0.91 over 700k (query, docID) pairs.

    Here a step is counted in queries: 64 where only the top docID is a target, 64 * 84 / 700, about 8, where all are.
    """
    recipe = load(name)
    assert recipe.training["max_steps"] == 10_000
    all_docids = recipe.loss.item != "indicator" or recipe.loss.token == "every_node"
    assert recipe.global_batch_size == (8 if all_docids else 64)


@pytest.mark.parametrize("name", [*list_recipes(), *(f"overlays/{name}" for name in OVERLAYS)])
def test_the_first_line_says_what_it_is(name: str) -> None:
    """`stoical recipes` prints it."""
    first = (RECIPES / f"{name}.yaml").read_text().splitlines()[0]
    assert re.fullmatch(r"# \S.{20,}\.", first)


@pytest.mark.parametrize("name", list_recipes() + OVERLAYS)
def test_the_readme_has_a_row_for_it(name: str) -> None:
    rows = [line for line in (RECIPES / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert any(f"`{name}`" in row for row in rows), f"recipes/README.md has no table row for `{name}`"
