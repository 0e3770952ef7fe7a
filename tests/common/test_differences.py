"""What differs between two nested mappings, and the line that says so."""

from __future__ import annotations

from stoical.common.differences import describe, differences, flat

OLD = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "gone": "x", "same": [1]}
NEW = {"a": 1, "b": {"c": 5, "d": {"e": 3}}, "come": {"f": None, "g": True}, "same": [1]}


def test_nested_mappings_become_one() -> None:
    assert flat(OLD) == {"a": 1, "b.c": 2, "b.d.e": 3, "gone": "x", "same": [1]}
    assert flat({}) == flat({"a": {}}) == {}


def test_what_differs_is_told_by_dotted_key() -> None:
    assert differences(OLD, NEW) == {"b.c": (2, 5), "gone": ("x", None), "come.g": (None, True)}
    assert differences(OLD, OLD) == {}


def test_a_line_of_them() -> None:
    line = describe({"b.c": (2, 5), "gone": ("x", None), "sha": ("0" * 64, "f" * 64)})
    assert line == "b.c: 2 -> 5, gone: x -> (not set), sha: 000000000000... -> ffffffffffff..."
