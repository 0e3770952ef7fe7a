"""What the entry points share: help, and errors without a traceback."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

from omegaconf import OmegaConf
from transformers.utils import logging as transformers_logging

from stoical.config import RECIPES, list_recipes
from stoical.launch import end_processes
from stoical.settings import Recipe

DEBUG_VARIABLE = "STOICAL_DEBUG"


def run(main: Callable[[Sequence[str]], None], usage: str, recipes: bool = True) -> None:
    """Call `main` with the command line's arguments. A user's mistake prints one line and exits with status 2.

    `recipes`: does the command take a recipe's settings, so that its help should list them?
    """
    arguments = sys.argv[1:]
    if {"-h", "--help", "help"} & set(arguments):
        _print_help(help_text(usage) if recipes else usage.strip())
        return
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        main(arguments)
    except ValueError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            print(f"error: {'; '.join(lines)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        hint = "; resume=auto continues from the last checkpoint" if recipes else ""
        print(f"interrupted{hint}", file=sys.stderr)
        sys.exit(130)
    end_processes()


def _print_help(text: str) -> None:
    """Print, quietly where the reader has gone: help is often piped into head."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def help_text(usage: str) -> str:
    """Usage, recipes with what they are, and every setting with its default."""
    lines = [usage.strip(), "", "Recipes:"]
    lines += _described("")
    lines += ["", "Overlays (recipe=NAME,OVERLAY,...; later ones win):"]
    lines += _described("overlays")
    lines += ["", "Settings and their defaults (training: any transformers.TrainingArguments field):", ""]
    lines += ["  " + line for line in OmegaConf.to_yaml(OmegaConf.structured(Recipe)).splitlines()]
    lines += ["", f"{DEBUG_VARIABLE}=1 shows the traceback of an error."]
    return "\n".join(lines)


def _described(folder: str) -> list[str]:
    """One line for each recipe: its name and the first comment of its file."""
    names = list_recipes(folder)
    width = max(map(len, names), default=0)
    firsts = [(RECIPES / folder / f"{name}.yaml").read_text().splitlines()[0] for name in names]
    return [f"  {name:{width}}  {first.removeprefix('# ')}" for name, first in zip(names, firsts, strict=True)]
