"""Where shipped files are: inside an installed package, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoical.common import places
from stoical.common.places import shipped
from tests.support.root import ROOT


def test_in_a_checkout_they_stand_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped("recipes") == ROOT / "recipes"
    assert (shipped("accelerate_configs") / "ddp.yaml").is_file()


def test_the_path_is_short_where_it_lies_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert shipped("recipes") == Path("recipes")


def test_once_installed_they_stand_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("site-packages/stoical/recipes", "site-packages/recipes"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site-packages" / "stoical")
    assert shipped("recipes") == tmp_path / "site-packages" / "stoical" / "recipes"
