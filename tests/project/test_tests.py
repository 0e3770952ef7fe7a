"""The tests themselves: what they share is in tests/support, so that each file can be read, moved and run alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.root import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)


def is_test(name: str) -> bool:
    """True for a dotted name of a test module or a conftest, or of something in one."""
    return any(part.startswith("test_") or part == "conftest" for part in name.split("."))


def test_no_test_imports_a_test() -> None:
    found = {str(path): [*imported(path.read_text(encoding="utf-8"))] for path in FILES}
    wrong = {path: [name for name in names if name.startswith(".") or is_test(name)] for path, names in found.items()}
    assert {path: names for path, names in wrong.items() if names} == {}
    assert sum(name.startswith("tests.support") for names in found.values() for name in names) > 100


def test_an_import_of_a_test_is_seen() -> None:
    for line in ("from tests.runs.test_kill import X", "import tests.conftest", "from tests.runs import test_kill"):
        assert any(map(is_test, imported(line))), line
