"""Fields as data: what fits them, how they read, and the name that is suggested for one that does not exist."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from stoical.common.fields import Field, check_fields, field_of, nearest, unknown

FITS = {  # type -> values that YAML may give for it, and others that it may not
    int: ([3], [3.5, True, "3", None]),
    float: ([3, 3.5], [True, "3", None]),
    bool: ([True], [1, "true"]),
    str: (["3"], [3, None]),
    int | None: ([3, None], [3.5]),
    list[str]: ([[]], ["a"]),
    dict[str, Any] | str | None: ([{}, "a", None], [[], 3]),
    Literal["a", "b"]: (["a", "b"], ["c", None, True]),
    Literal["a"] | bool: (["a", True], ["b"]),
}


@pytest.mark.parametrize("hint", FITS, ids=str)
def test_what_fits_a_type(hint: Any) -> None:
    good, bad = FITS[hint]
    for value in good:
        assert field_of(hint).fits(value), value
    for value in bad:
        assert not field_of(hint).fits(value), value


def test_what_is_no_plain_type_comes_as_a_string() -> None:
    class Schedule:
        pass

    assert field_of(Schedule).kinds == ("str",)
    assert field_of(Schedule | dict).kinds == ("str", "dict")


def test_a_field_reads_as_help_does() -> None:
    assert str(field_of(Literal["a", "b"] | int | None)) == "a|b|int|null"
    assert str(Field(("float",))) == "float"


KNOWN = {"learning_rate": Field(("float",)), "seed": Field(("int", "null"))}


def test_settings_are_checked_against_fields() -> None:
    check_fields("training", {"learning_rate": 1, "seed": None}, KNOWN, "a.Class")
    with pytest.raises(
        ValueError, match=r"^training setting 'training\.sed' does not exist\. Did you mean 'training\."
    ):
        check_fields("training", {"sed": 1}, KNOWN, "a.Class")
    with pytest.raises(ValueError, match=r"^training\.seed=1\.5 has the wrong type; a\.Class wants int\|null$"):
        check_fields("training", {"seed": 1.5}, KNOWN, "a.Class")


NAMES = ["seed", "prompt.max_length", "training.learning_rate", "a.weight", "margin.weight", "consistency.weight"]
NEAREST = {
    "sed": "seed",
    "learning_rate": "training.learning_rate",
    "learning_rte": "training.learning_rate",
    "promt.max_length": "prompt.max_length",
    "max_lenght": "prompt.max_length",
    "marginn.weight": "margin.weight",
    "weight": "a.weight",
    "prompt.max_len": "prompt.max_length",
    "zzz": None,
}


@pytest.mark.parametrize("name", NEAREST)
def test_the_nearest_name_is_found_by_its_end_or_by_the_whole(name: str) -> None:
    assert nearest(name, NAMES) == NEAREST[name]
    assert nearest(name, []) is None


def test_the_error_for_an_unknown_name() -> None:
    assert str(unknown("key", "sed", NAMES)) == "key 'sed' does not exist. Did you mean 'seed'?"
    assert str(unknown("key", "zzz", NAMES, " Look there.")) == "key 'zzz' does not exist. Look there."
    assert str(unknown("key", "lr", NAMES, meant="training.learning_rate")).endswith(
        "Did you mean 'training.learning_rate'?"
    )
