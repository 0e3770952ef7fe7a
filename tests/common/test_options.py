"""Options as dataclass fields: every key of a nest of them, with type, default and help in words."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from stoical.common.options import Key, keys_of, option, section_of, type_words, value_words


@dataclass
class Inner:
    """A section."""

    share: float = option(0.5, "how much")


@dataclass
class Base:
    """Options that others inherit."""

    seed: int = option(0, "of what is drawn")


@dataclass
class Outer(Base):
    """Every kind of option."""

    kind: Literal["a", "b"] | None = option("a", "which")
    places: list[int] = option(None, "where", factory=lambda: [1, 2])
    there: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    extra: dict[str, Any] | None = option(None, "what else")


def test_every_key_is_there_once_inherited_ones_last() -> None:
    """Those of a section that is off by default, too."""
    assert list(keys_of(Outer)) == [
        Key("kind", "a|b|null", "a", "which"),
        Key("places", "list", [1, 2], "where"),
        Key("there.share", "float", 0.5, "how much"),
        Key("maybe.share", "float", 0.5, "how much"),
        Key("extra", "dict|null", None, "what else"),
        Key("seed", "int", 0, "of what is drawn"),
    ]


def test_required_and_verbatim_options_are_marked() -> None:
    @dataclass
    class Needs:
        output: str = option("", "where to", required=True)
        text: str = option("", "what", verbatim=True)

    output, text = fields(Needs)
    assert output.metadata == {"help": "where to", "required": True, "verbatim": False}
    assert text.metadata == {"help": "what", "required": False, "verbatim": True}


def test_mutable_defaults_are_not_shared() -> None:
    assert Outer().places is not Outer().places


def test_sections_and_values_in_words() -> None:
    assert section_of(Inner) is section_of(Inner | None) is Inner
    assert section_of(dict[str, Any]) is section_of(int | None) is None
    assert type_words(list[int]) == "list"
    assert [value_words(value) for value in (None, True, 0.5, "a", [1])] == ["null", "true", "0.5", "a", "[1]"]
