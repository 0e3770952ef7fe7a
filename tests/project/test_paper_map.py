"""docs/paper_map.md: whatever stands in backticks exists, as a name of what it looks like."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path

import pytest

from stoical.commands.main import find
from stoical.config.loading import list_recipes, load_recipe
from tests.support.documents import stoical_words
from tests.support.root import ROOT

PAGE = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
ROOMS = {path.name for path in (ROOT / "stoical").iterdir() if path.is_dir()}
PLACES = [ROOT / "stoical", ROOT / "stoical" / "objectives", ROOT]
TESTS = {path.name: path for path in (ROOT / "tests").glob("*/test_*.py")}
RECIPES = set(list_recipes()) | {path.stem for path in (ROOT / "recipes" / "overlays").glob("*.yaml")}
PAPERS = {  # the numbered things of each paper: none may be missing
    "## The SToICaL paper": [
        *(f"Eq. {number}" for number in (1, 2, 3, 11, 12, 13, 14)), "Eq. 4 to 10",
        *("Theorem 3.1", "Proposition 3.1", "Corollary 3.1", "Proposition 3.2", "Definitions 3.1 to 3.3"),
        *(f"Table {number}" for number in (1, 2, 3)), *(f"Figure {number}" for number in (1, 2, 3, 4)),
        *(f"ootnote {number}" for number in (5, 6, 7, 8, 9)), "Footnotes 4 and 10",
        *(f"| {name}" for name in ("A.1", "A.2", "A.3", "B.1 and B.2", "C,", "D and Table 3", "D, ")),
    ],
    "## The mismatch paper": ["Table 1", "Eq. 1", "Figure 1", "Figure 2", "3.1", "3.2", "3.3", "Sections 4 and 5"],
    "## The BASH and RAC paper": ["BASH:", "RAC:", "28.12%", "10.37%", "SPIN", "DPO", "NEFTune", "question 3"],
    "## The soft-prompt paper": [f"| {number}, " for number in (1, 2, 3, 4, 5)],
}  # fmt: skip


def blocks() -> list[tuple[str, str]]:
    """(section, block) of every row of a table and every paragraph."""
    found = []
    for section in re.split(r"\n(?=## )", PAGE):
        for part in section.split("\n\n"):
            found += [(section, each) for each in (part.splitlines() if part.startswith("|") else [part])]
    return found


def names_in(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def expanded(name: str) -> list[str]:
    """wordnet_{a,b}.yaml as its names."""
    pieces = re.split(r"\{([^}]*)\}", name)
    choices = [piece.split(",") if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return ["".join(words) for words in itertools.product(*choices)]


def file_of(name: str) -> Path | None:
    """A file or directory that is named by its path, or a test by its name."""
    if name in TESTS:
        return TESTS[name]
    return next((place / name for place in PLACES if (place / name).exists()), None)


def module_of(name: str) -> tuple[str, str] | None:
    """(module, attribute) of a dotted name of a room."""
    module, _, attribute = name.rpartition(".")
    return (f"stoical.{module}", attribute) if name.partition(".")[0] in ROOMS and module else None


def sources(names: list[str]) -> list[str]:
    """The texts of the files and modules named."""
    paths = [path for name in names for each in expanded(name) if (path := file_of(each)) and path.is_file()]
    paths.append(ROOT / "stoical" / "config" / "recipe.py")  # whose settings need no file beside them
    found = [module_of(name) for name in names]
    paths += [Path(str(importlib.import_module(each[0]).__file__)) for each in found if each]
    return [path.read_text(encoding="utf-8") for path in paths if path.suffix != ".png"]


def check_command(words: list[str]) -> None:
    """A command of ours is one that is taken, with settings that are; another exists."""
    after = stoical_words(words)
    if after is not None:
        command, rest = find(after)
        given = command.parse(rest)
        if "recipe" in given.settings:
            load_recipe(*(f"{key}={value}" for key, value in given.settings.items()))
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), words
    else:
        assert words[:2] == ["python", "-m"], words
        place = ROOT / words[2].replace(".", "/")
        path = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        text = path.read_text(encoding="utf-8")
        assert all(re.search(rf"\b{word.partition('=')[0]}\b", text) for word in words[3:]), words


def check(name: str, others: list[str]) -> None:
    """`name` exists; a bare word occurs in one of the files `others`, or is a recipe or an overlay."""
    if " " in name and name.split()[0] in ("stoical", "python", "make"):
        check_command(name.split())
    elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*=[\w.=]+", name):
        key, _, value = name.partition("=")
        assert all(word in RECIPES or _occurs(word, others) for word in (*key.split("."), value)), name
    elif (found := module_of(name)) and not name.endswith((".py", ".yaml")):
        assert hasattr(importlib.import_module(found[0]), found[1]), name
    elif "/" in name or name.endswith((".py", ".md", ".yaml", ".json")):
        assert all(file_of(each) for each in expanded(name)), name
    else:
        assert name in RECIPES or _occurs(name, others), name


def _occurs(word: str, names: list[str]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", text) for text in sources(names))


@pytest.mark.parametrize("heading", re.findall(r"^## .*", PAGE, flags=re.MULTILINE))
def test_whatever_is_named_exists(heading: str) -> None:
    """Bare words of a row are in files of that row, those of a paragraph in files of its section."""
    own = [(section, block) for section, block in blocks() if section.startswith(heading)]
    assert sum(len(names_in(block)) for _, block in own) > 5  # 9 in the shortest section
    for section, block in own:
        for name in names_in(block):
            check(name, names_in(block if block.startswith("|") else section))


def test_a_name_that_does_not_exist_is_found() -> None:
    for name in ("evaluation.paper.nothing", "studies/none.py", "test_none.py", "stoical trian", "make nothing",
                 "python -m examples.none", "no_such_word", "loss.item=fractionl"):  # fmt: skip
        with pytest.raises((AssertionError, ValueError, FileNotFoundError)):
            check(name, ["test_metrics.py"])


@pytest.mark.parametrize("heading", PAPERS)
def test_every_numbered_item_has_its_row(heading: str) -> None:
    section = PAGE.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert [item for item in PAPERS[heading] if not any(item in row for row in rows)] == []


def test_every_row_has_a_test_or_says_why_not() -> None:
    rows = [line for line in PAGE.splitlines() if line.count(" | ") == 4 and "---" not in line]
    assert len(rows) > 60
    bare = [row for row in rows if "test_" not in row and not re.search("in the paper|out of scope", row)]
    assert bare == []
