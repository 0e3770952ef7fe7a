"""Ids: one id however a file writes it, and what is no id."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from stoical.common.ids import as_id


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ([7, 7.0, "7", " 7 ", "7\u00a0", Decimal(7), b"7 "], "7"),
        (["7.0"], "7.0"),
        ([0, "0", -0.0], "0"),
        ([2.5, "2.5"], "2.5"),
        (["a  b", " a\tb "], "a b"),
        ([10**400], "1" + "0" * 400),
        ([1e300], str(int(1e300))),
        ([None, "", " ", "\u3000", float("nan"), b""], None),
    ],
)
def test_one_id_in_many_ways(cells: list[Any], wanted: str | None) -> None:
    assert {as_id(cell, "it:1", "id") for cell in cells} == {wanted}


@pytest.mark.parametrize("cell", [True, False, [], ["a"], {"a": 1}, [[[[[[[[1]]]]]]]]])
def test_what_is_no_id(cell: Any) -> None:
    with pytest.raises(ValueError, match=r"it:1: id must be text or a number, got "):
        as_id(cell, "it:1", "id")


def test_bytes_that_are_no_text_are_refused() -> None:
    """In their place two ids would become one, a character for what is not known."""
    with pytest.raises(ValueError, match=r"it:1: id is not UTF-8"):
        as_id(b"caf\xe9", "it:1", "id")
