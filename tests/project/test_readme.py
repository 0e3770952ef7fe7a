"""What the documents name exists: files, recipes, make targets, settings."""

from __future__ import annotations

import re
import subprocess

import pytest

from stoical.commands.main import find
from stoical.commands.shell import HELP
from stoical.config.loading import list_recipes, load_recipe
from tests.support.documents import DOCUMENTS, all_stoical_commands, commands, stoical_words
from tests.support.root import ROOT

PATHS = re.compile(r"\b(?:recipes|accelerate_configs|data_prep|stoical|docs|benchmarks|tests|examples)/[\w./-]*\w")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_named_exists(document):
    found = set(PATHS.findall((ROOT / document).read_text()))
    missing = [path for path in found if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}*"))]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    page = ROOT / document
    local = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not link.startswith("http")]
    parts = [
        (page.parent / file if file else page, anchor) for file, _, anchor in (link.partition("#") for link in local)
    ]
    assert [path for path, _ in parts if not path.exists()] == []
    assert [anchor for path, anchor in parts if anchor and anchor not in anchors(path.read_text())] == []


def anchors(page: str) -> set[str]:
    """What GitHub makes of a page's headings: lower case, no punctuation, hyphens for blanks."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_anchors_by_hand() -> None:
    page = "# Dual, and (3.1)\n```bash\n# no heading\n```\n## LIMIT's critical n\n"
    assert anchors(page) == {"dual-and-31", "limits-critical-n"}


SHOWN = all_stoical_commands()


def test_commands_are_found() -> None:
    assert {words[0] for _, words in SHOWN} >= {"train", "evaluate", "prepare", "compare", "rank"}
    assert stoical_words(["accelerate", "launch", "--num_processes=2", "-m", "stoical", "train", "seed=1"]) == [
        "train", "seed=1"
    ]  # fmt: skip
    assert stoical_words(["accelerate", "launch", "train.py", "seed=1"]) == ["train", "seed=1"]
    assert stoical_words(["python", "-m", "data_prep.wordnet"]) == ["prepare", "wordnet"]
    assert stoical_words(["make", "test"]) is None


@pytest.mark.parametrize(("document", "words"), SHOWN, ids=[" ".join(words)[:60] for _, words in SHOWN])
def test_every_command_shown_is_one_that_is_taken(document: str, words: list[str]) -> None:
    """Its name, its options and, where it names a recipe, all of its settings."""
    command, rest = find(words)
    if not HELP & set(rest):
        given = command.parse(rest)
        settings = [f"{key}={value}" for key, value in given.settings.items()]
        if "recipe" in given.settings:
            assert load_recipe(*settings).output
        elif settings and "checkpoint" not in given.names:
            load_recipe(*settings)


def test_every_recipe_and_overlay_named_exists():
    text = "".join((ROOT / document).read_text() for document in DOCUMENTS)
    for names in re.findall(r"recipe=(\w+(?:,\w+)*)", text):
        if names.isupper() or names.startswith("NAME"):
            continue
        recipe, *overlays = names.split(",")
        assert recipe in [*list_recipes(), *list_recipes("soft_prompts")]
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


def test_every_test_named_exists() -> None:
    named = {name for d in DOCUMENTS for name in re.findall(r"\btest_\w+\.py", (ROOT / d).read_text())}
    assert named - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()
