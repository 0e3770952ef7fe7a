"""loss.ranking* in recipes: what is refused, in one line, and what the terms of the loss are."""

from __future__ import annotations

import pytest

from stoical.config.loading import load_recipe
from stoical.objectives.build import build_objectives
from stoical.objectives.settings import LossSettings
from stoical.runs.model_card import ranking_lines

ALONE = "recipe=wordnet_ranking,small"
BESIDE = "recipe=wordnet_alpha2,small"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([ALONE, "loss.ranking=listmle"], "loss.ranking: Invalid value 'listmle', expected one of ['list_mle',"),
        ([BESIDE, "loss.ranking_temperature=2"], "loss.ranking_temperature=2.0 has no effect without loss.ranking"),
        (
            [ALONE, "loss.ranking_gain=linear"],
            "loss.ranking_gain=linear has no effect with loss.ranking=list_mle; drop",
        ),
        (
            [ALONE, "loss.ranking_samples=4"],
            "has no effect with loss.ranking=list_mle; drop it, or use rank_distil, pol",
        ),
        ([ALONE, "loss.ranking_temperature=0"], "loss.ranking_temperature=0.0 must be a finite number above 0"),
        ([ALONE, "loss.ranking_temperature=nan"], "loss.ranking_temperature=nan must be a finite number above 0"),
        ([ALONE, "loss.ranking_weight=-1"], "loss.ranking_weight=-1.0 must be a finite number, 0 or more"),
        ([ALONE, "loss.ranking=rank_distil", "loss.ranking_samples=1"], "loss.ranking_samples=1 must be at least 2"),
        (
            [ALONE, "loss.normalizer=points"],
            "loss.normalizer=points counts what SToICaL's loss trains, and loss.ranking",
        ),
        (
            [ALONE, "loss.item=stepwise"],
            "loss.item=stepwise has no effect with loss.ranking=list_mle in the loss's place",
        ),
        ([ALONE, "loss.token=trie", "loss.beta=2"], "loss.token=trie has no effect with loss.ranking=list_mle"),
        ([ALONE, "loss.ranking=info_nce"], "loss.ranking=info_nce compares with negatives, and training queries have"),
        (
            [f"{ALONE},scheduled_sampling"],
            "scheduled_sampling conflicts with loss.ranking=list_mle: both take the place",
        ),
        ([BESIDE, "data.num_negatives=2"], "data.num_negatives=2 has no effect"),
        ([ALONE, "data.generated=rows.parquet"], "loss.ranking=list_mle conflicts with data.generated"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words, message):
    with pytest.raises(ValueError, match=r".") as error:
        load_recipe(*words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_there_in_python():
    with pytest.raises(ValueError, match=r"ranking loss 'listmle' does not exist\. Did you mean 'list_mle'\?"):
        LossSettings(ranking="listmle", normalizer="queries").check()


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        ([ALONE], ["ranking"]),
        ([ALONE, "loss.ranking_weight=0.5"], ["loss", "ranking"]),
        ([BESIDE, "loss.ranking=rank_net", "loss.ranking_weight=1"], ["loss", "ranking"]),
        ([f"{ALONE},margin", "data.num_negatives=2"], ["ranking", "margin"]),
        (
            ["recipe=wordnet_ntp,small,scheduled_sampling", "loss.ranking=list_net", "loss.ranking_weight=1"],
            ["scheduled_sampling", "ranking"],
        ),
        ([ALONE, "loss.ranking=info_nce", "data.num_negatives=4"], ["ranking"]),
    ],
)
def test_the_terms_of_the_loss(words, terms):
    recipe = load_recipe(*words)
    assert list(build_objectives(recipe.loss, recipe.mitigations)) == terms


def test_the_model_card_has_formula_source_and_settings():
    loss = load_recipe(ALONE, "loss.ranking=approx_ndcg", "loss.ranking_gain=exponential").loss
    (line,) = ranking_lines(loss)
    for words in ("Qin et al. 2010", "sigmoid(s(d') - s(d))", "the queries of the global batch", "2^y - 1", "mean log"):
        assert words in line
    assert not ranking_lines(load_recipe(BESIDE).loss)
