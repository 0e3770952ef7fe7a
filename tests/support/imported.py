"""What commands import, looked at in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.support.launching import start

HEAVY = (
    *("accelerate", "datasets", "matplotlib", "nltk", "peft", "sklearn", "tokenizers", "torch", "transformers"),
    *("trl", "wandb"),
)
REPORT = f"""
import contextlib, io, json, shlex, sys
seen, told = set(), []
for step in json.loads(sys.argv[1]):
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if step.startswith("python "):
            exec(step.removeprefix("python "))
        else:
            from stoical.commands.main import main
            code = main(shlex.split(step))
    new = {{*{HEAVY!r}}} & sys.modules.keys() - seen
    seen |= new
    told.append([code, sorted(new), said.getvalue()])
print(json.dumps(told))
"""


def imports_of(steps: Sequence[str]) -> list[tuple[int, list[str], str]]:
    """(exit code, heavy packages that are new, all that was said) of commands of `stoical`, one after the other.

    A step that begins with `python` is code.
    """
    return [tuple(found) for found in json.loads(start("-c", REPORT, json.dumps([*steps])).stdout.splitlines()[-1])]
