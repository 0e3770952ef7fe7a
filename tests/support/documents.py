"""What the documents of the repository show: their names, and the commands in their bash blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from tests.support.root import ROOT

DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "accelerate_configs/README.md", "recipes/README.md", "benchmarks/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
SCRIPTS = {  # how a checkout starts a command without its being installed
    "train.py": ["train"],
    "evaluate.py": ["evaluate"],
    "data_prep.wordnet": ["prepare", "wordnet"],
    "data_prep.esci": ["prepare", "esci"],
}


def commands(document: str) -> list[str]:
    """The lines of the document's bash blocks, without their comments; a line that goes on after a \\ is one."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [stripped for line in lines if (stripped := re.sub(r"(^|\s)#.*", "", line).strip())]


def split_pipe(line: str) -> list[list[str]]:
    """The words of every command of a pipe."""
    found: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word == "|":
            found.append([])
        else:
            found[-1].append(word)
    return found


def stoical_words(words: Sequence[str]) -> list[str] | None:
    """What comes after `stoical` in a command, whichever way it is started; None for a command of others."""
    for place, word in enumerate(words):
        after = list(words[place + 1 :])
        if word == "stoical":
            return after
        if word in SCRIPTS and place:
            return [*SCRIPTS[word], *after]
    return None


def all_stoical_commands() -> list[tuple[str, list[str]]]:
    """(document, words after `stoical`) of every command of ours that a document shows."""
    parts = [(name, part) for name in DOCUMENTS for line in commands(name) for part in split_pipe(line)]
    return [(name, words) for name, part in parts if (words := stoical_words(part)) is not None]
