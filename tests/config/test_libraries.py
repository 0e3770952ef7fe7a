"""The table of other libraries' fields: what the libraries themselves say, and what happens with other versions."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from stoical.config import libraries
from stoical.config.libraries import CLASSES, FILE, from_json, library_fields, read_fields
from stoical.config.loading import load_recipe
from tests.support.root import ROOT

KEPT = json.loads(FILE.read_text(encoding="utf-8"))
PINNED = all(importlib.metadata.version(library) == version for library, version in KEPT["versions"].items())


@pytest.fixture(autouse=True)
def fresh_table() -> Iterator[None]:
    library_fields.cache_clear()
    yield
    library_fields.cache_clear()


@pytest.mark.skipif(not PINNED, reason="other versions of transformers or peft than constraints.txt has")
@pytest.mark.parametrize("name", CLASSES)
def test_the_table_is_what_the_libraries_say(name: str) -> None:
    """If not: python -m tools.library_fields."""
    found = {key: asdict(field) for key, field in read_fields(name).items()}
    assert json.loads(json.dumps(found)) == KEPT["fields"][name]
    assert len(found) >= 10


def test_the_table_is_of_the_versions_that_are_pinned() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert KEPT["versions"] == {library: pins[library] for library, _ in CLASSES.values()}


@pytest.mark.parametrize("name", CLASSES)
def test_with_another_version_the_library_itself_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = library_fields(name)
    library_fields.cache_clear()
    asked: list[str] = []

    def read(name: str) -> dict[str, libraries.Field]:
        asked.append(name)
        return read_fields(name)

    monkeypatch.setattr(importlib.metadata, "version", lambda library: "0.0.1")
    monkeypatch.setattr(libraries, "read_fields", read)
    assert library_fields(name) == kept
    assert asked == [name]
    load_recipe("wordnet_alpha2", "qlora", "training.max_steps=5")
    load_recipe("wordnet_alpha2", "soft_prompt")
    assert set(asked) == set(CLASSES)
    with pytest.raises(ValueError, match=r"Did you mean 'training\.max_steps'"):
        load_recipe("training.max_step=5")


def test_a_field_survives_the_file() -> None:
    for fields in KEPT["fields"].values():
        for value in fields.values():
            assert json.loads(json.dumps(asdict(from_json(value)))) == value
