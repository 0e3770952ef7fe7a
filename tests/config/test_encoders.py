"""config/encoders.py: what acts on a lookup encoder is shown and checked, and everything else is refused by name."""

from __future__ import annotations

import pytest

from stoical.common.differences import flat
from stoical.config.encoders import acts
from stoical.config.loading import list_recipes, load_recipe
from stoical.config.values import recipe_values, recipe_yaml
from tests.support.commands import run

ENCODERS = ["cross_encoder", *(f"dual_encoder_{dim}" for dim in (16, 32, 4, 8))]


def test_the_recipes_are_the_papers() -> None:
    """Section 5.3, A.2 and A.3; "2k" is 2048, and the cross encoder's n is ours."""
    assert [name for name in list_recipes() if "encoder" in name] == ENCODERS
    for dim in (4, 8, 16, 32):
        recipe = load_recipe(f"dual_encoder_{dim}")
        settings = recipe.dual_encoder
        assert settings is not None and recipe.cross_encoder is None
        assert (settings.dim, settings.temperature, settings.momentum) == (dim, 0.05, 0.9)
        assert (recipe.training["max_steps"], recipe.training["learning_rate"]) == (50_000, 1.0)
    cross = load_recipe("cross_encoder")
    assert cross.cross_encoder is not None and cross.cross_encoder.hidden_layers == 3
    rates = [cross.training[key] for key in ("max_steps", "learning_rate", "weight_decay")]
    assert rates == [20_000, 1e-3, 1e-3] and cross.global_batch_size == 2048


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("overlay", ["alpha1", "alpha2", "alpha3", "encoder_small"])
def test_overlays_go_with_every_encoder(name: str, overlay: str) -> None:
    recipe = load_recipe(f"{name},{overlay}")
    assert recipe.loss.alpha == (float(overlay[-1]) if "alpha" in overlay else 0)
    assert recipe.data.path == ("data/mammal" if overlay == "encoder_small" else "data/wordnet")


def test_the_resolved_recipe_has_what_acts_and_nothing_else(tmp_path: object) -> None:
    recipe = load_recipe("dual_encoder_32,alpha2")
    found = flat(recipe_values(recipe))
    assert all(acts(key) for key in found)
    assert {"dual_encoder.dim", "loss.alpha", "training.max_steps", "eval.num_queries"} <= found.keys()
    assert not {key.partition(".")[0] for key in found} & {"model", "prompt", "tokenizer", "lora", "mitigations"}
    assert "bf16" not in recipe_yaml(recipe)
    assert "mitigations" in recipe_yaml(load_recipe("wordnet_alpha2")), "of a language model everything"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora.r=3"], "command line: lora.r has no effect with the section dual_encoder"),
        (["training.bf16=true"], "command line: training.bf16 has no effect"),
        (["training.lr_scheduler_type=cosine"], "command line: training.lr_scheduler_type has no effect"),
        (["loss.token=trie", "loss.beta=2"], "command line: loss.token has no effect"),
        (["eval.mode=greedy_path"], "command line: eval.mode has no effect"),
        (["mitigations.margin.weight=1"], "command line: mitigations.margin.weight has no effect"),
        (["recipe=small"], "recipes/overlays/small.yaml: optimizer has no effect"),
        (["dual_encoder.dims=3"], "Did you mean 'dual_encoder.dim'?"),
        (["dual_encoder.dim=2.5"], "dual_encoder.dim: Value '2.5'"),
        (["dual_encoder.dim=0"], "dual_encoder.dim=0 must be a whole number, 1 or more"),
        (["dual_encoder.temperature=0"], "dual_encoder.temperature=0.0 must be a finite number above 0"),
        (["dual_encoder.momentum=1"], "dual_encoder.momentum=1.0 must be from 0 to below 1"),
        (["cross_encoder.dim=3"], "the sections dual_encoder and cross_encoder conflict"),
        (["training.max_steps=0"], "training.max_steps=0 must be a whole number, 1 or more"),
        (["training.learning_rate=-1"], "training.learning_rate=-1 must be a finite number, 0 or more"),
        (["training.eval_strategy=epoch"], "training.eval_strategy=epoch must be steps or no"),
        (["loss.alpha=null"], "loss.alpha must be set with loss.item=fractional"),
        (["global_batch_size=0"], "global_batch_size=0 must be at least 1"),
        (["resume_force=true"], "resume_force=true has no effect without resume="),
    ],
)
def test_what_does_not_act_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r".+") as error:
        load_recipe("dual_encoder_32", *words)
    assert said in str(error.value)


def test_recipes_show_and_keys_explain_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "show", "cross_encoder,alpha2", "cross_encoder.dim=8") == 0
    shown = capsys.readouterr().out
    assert "  dim: 8" in shown and "# command line" in shown and "overlays/alpha2.yaml" in shown and "lora" not in shown
    assert run("recipes", "keys", "dual_encoder") == 0
    assert "dual_encoder.temperature  float = 0.05" in capsys.readouterr().out
