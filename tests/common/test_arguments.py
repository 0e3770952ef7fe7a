"""`key=value` words: split, typed by a dataclass, and as a layer of settings."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from stoical.common.arguments import dotlist_layer, parse_options, split_arguments
from stoical.common.options import option


@dataclass
class Inner:
    """A section."""

    share: float = option(0.5, "how much")


@dataclass
class Options:
    """Options of several types."""

    name: str = option("x", "who")
    top: int | None = option(None, "how many")
    places: list[int] = option(None, "where", factory=lambda: [1])
    own: Inner = field(default_factory=Inner)


@dataclass
class Needs:
    """An option that must be given."""

    output: str = option("", "the directory to write", required=True)


def test_words_are_split_at_the_first_equals_sign() -> None:
    assert split_arguments(["a=1", "b.c=x=y", "d="]) == {"a": "1", "b.c": "x=y", "d": ""}


def test_options_are_typed() -> None:
    given = {"name": "a=b", "top": "3", "places": "[4,5]", "own.share": "1e-1"}
    assert parse_options(Options, given) == Options("a=b", 3, [4, 5], Inner(0.1))
    assert parse_options(Options, {"top": "null"}) == Options()
    assert parse_options(Options, {}) == Options()


@dataclass
class Named:
    """Text that may be missing, in a section too."""

    query: str | None = option(None, "an id")
    own: Options = field(default_factory=Options)


@pytest.mark.parametrize("word", ["007", "no", "1e3", "0x1f", "1:30", ".5"])
def test_text_stays_as_it_is_written(word: str) -> None:
    """An id such as 007 is not 7."""
    assert parse_options(Named, {"query": word, "own.name": word}) == Named(word, Options(word))
    assert parse_options(Named, {"query": "null"}) == Named()


def test_a_value_is_what_yaml_makes_of_it() -> None:
    origin, layer = dotlist_layer({"a.b": "1e-3", "a.c": "[1,x]", "a.d": "{e: true}", "f": "'no'"})
    assert origin == "command line"
    assert OmegaConf.to_container(layer) == {"a": {"b": 1e-3, "c": [1, "x"], "d": {"e": True}}, "f": "no"}


BAD = {
    "unknown": (Options, {"nam": "x"}, "option 'nam' does not exist. Did you mean 'name'? --help explains"),
    "unknown in a section": (
        Options,
        {"own.sahre": "1"},
        "option 'own.sahre' does not exist. Did you mean 'own.share'?",
    ),
    "a type": (Options, {"top": "many"}, "top: Value 'many' of type 'str' could not be converted to Integer"),
    "null": (Options, {"name": "null"}, "name=null says nothing; give it a value"),
    "a section's name": (Options, {"own": "3"}, "option 'own' does not exist."),
    "no YAML": (Options, {"name": "["}, "command line: name=[: while parsing a flow node"),
    "missing": (Needs, {}, "give output=, the directory to write"),
    "empty": (Needs, {"output": "''"}, "give output=, the directory to write"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_with_its_key(case: str) -> None:
    schema, given, message = BAD[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
        parse_options(schema, given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["007", "a: b", "[cat] # no", "${home}", "", '"quoted"', "null"])
def test_a_verbatim_option_is_taken_to_the_letter(text: str) -> None:
    @dataclass
    class Says:
        target: str | None = option(None, "what to say", verbatim=True)
        top: int = option(1, "how many")

    assert parse_options(Says, {"target": text, "top": "3"}) == Says(text, 3)
    assert parse_options(Says, {}) == Says(None, 1)
