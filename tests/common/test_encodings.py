"""Files and output do not depend on the locale: a run under an old one reads, writes and prints as under UTF-8."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator

import pytest

from stoical.commands.shell import Command, Given, execute
from tests.support.root import ROOT


def in_text_mode(call: ast.Call) -> bool:
    """True for a call that reads or writes text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("write_text", "read_text"):
        return True
    modes = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return name == "open" and any(set(mode) <= set("rwax+t") for mode in modes)


def without_encoding(code: str) -> Iterator[int]:
    """The lines of calls that leave the encoding to the locale."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and in_text_mode(node) and "encoding" not in {one.arg for one in node.keywords}:
            yield node.lineno


def test_what_leaves_the_encoding_to_the_locale_is_found() -> None:
    code = 'path.write_text(text)\npath.open("a")\npath.open("rb")\npath.read_text(encoding="utf-8")'
    assert list(without_encoding(code)) == [1, 2]


def test_no_file_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    files = [path for folder in ("stoical", "data_prep") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    found = [f"{path}:{line}" for path in files for line in without_encoding(path.read_text(encoding="utf-8"))]
    assert found == []


def say(given: Given) -> None:
    print("nDCG (\u2191), \u03bb")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_terminal_cannot_show_is_written_as_its_code(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding=encoding))
    assert execute(Command("Say.", say, bare=True), []) == 0
    sys.stdout.flush()
    assert terminal.getvalue() == b"nDCG (\\u2191), \\u03bb\n"
