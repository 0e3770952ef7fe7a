"""Every field of transformers' TrainingArguments acts, is refused by name, or is harmless: none is passed by."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import TrainingArguments

from stoical.config.loading import load_recipe
from stoical.config.training_fields import ACTS, HARMLESS, OWNED, REFUSED

LISTS = {"owned": set(OWNED), "refused": set(REFUSED), "acts": set(ACTS), "harmless": set(HARMLESS)}
FIELDS = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}


def test_every_field_is_in_one_list() -> None:
    counts = {name: sum(name in each for each in LISTS.values()) for name in FIELDS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_no_list_names_what_is_not_a_field() -> None:
    assert set().union(*LISTS.values()) - FIELDS == set()


def _other(name: str) -> object:
    """A value that is not the field's default."""
    default = getattr(TrainingArguments(output_dir="unused"), name)
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int | float) else "something"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_field_is_refused_by_name_with_its_reason(name: str) -> None:
    with pytest.raises(ValueError, match=rf"training\.{name}\b") as caught:
        load_recipe("recipe=wordnet_alpha2", f"training.{name}={_other(name)}")
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize("name", sorted(OWNED))
def test_an_owned_field_names_the_setting_that_decides_it(name: str) -> None:
    with pytest.raises(ValueError, match=rf"training\.{name}\b") as caught:
        load_recipe("recipe=wordnet_alpha2", f"training.{name}={_other(name)}")
    if OWNED[name] is not None:
        assert OWNED[name] in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("training.max_steps=0", "would train nothing"),
        ("training.num_train_epochs=3", "no effect beside training.max_steps"),
        ("training.adam_beta1=0.8", "no effect with optimizer=adafactor"),
        ("training.metric_for_best_model=nope", "does not exist"),
        ("training.neftune_noise_alpha=-5", "above 0"),
        ("training.train_sampling_strategy=group_by_length", "train_sampling_strategy"),
    ],
)
def test_a_setting_that_would_act_on_nothing_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_recipe("recipe=wordnet_alpha2", setting)
