"""What the documents name exists: files, recipes, make targets, settings."""

from __future__ import annotations

import re
import subprocess

import pytest
from stoical.evaluation_job import load_evaluation

from stoical.config.loading import list_recipes, load_recipe
from tests.support.documents import commands
from tests.support.root import ROOT

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "accelerate_configs/README.md",
    "recipes/README.md",
    "docs/paper_map.md",
    "docs/data.md",
    "benchmarks/README.md",
]
PATHS = re.compile(r"\b(?:recipes|accelerate_configs|data_prep|stoical|docs|benchmarks|tests|examples)/[\w./-]*\w")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_named_exists(document):
    found = set(PATHS.findall((ROOT / document).read_text()))
    missing = [path for path in found if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}*"))]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (ROOT / document).parent.joinpath(link).exists()] == []


def test_every_recipe_in_a_command_loads():
    lines = [line for document in DOCUMENTS for line in commands(document) if "recipe=" in line]
    assert len(lines) >= 2
    for line in lines:
        words = [word for word in line.split() if "=" in word and not word.startswith("-")]
        assert load_recipe(*words).output


def test_every_recipe_and_overlay_named_exists():
    text = "".join((ROOT / document).read_text() for document in DOCUMENTS)
    for names in re.findall(r"recipe=(\w+(?:,\w+)*)", text):
        if names.isupper() or names.startswith("NAME"):
            continue
        recipe, *overlays = names.split(",")
        assert recipe in list_recipes()
        assert set(overlays) <= set(list_recipes("overlays"))


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {t for d in DOCUMENTS for t in re.findall(r"`make ((?:[a-z-]+ ?)+)`", (ROOT / d).read_text())}
    named |= {line.removeprefix("make ") for d in DOCUMENTS for line in commands(d) if line.startswith("make ")}
    assert {target for names in named for target in names.split()} <= targets
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony and set(phony.group(1).split()) == targets


def test_make_help_lists_every_target():
    command = ["make", "--no-print-directory", "help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert [line.split()[0] for line in printed.splitlines()] == targets


def test_evaluate_needs_exactly_one_source():
    with pytest.raises(ValueError, match="either checkpoint=DIR"):
        load_evaluation([])
