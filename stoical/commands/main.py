"""`stoical COMMAND ...` and `python -m stoical COMMAND ...`: the table of commands, each imported when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from stoical.commands.shell import HELP, Command, execute
from stoical.common.fields import unknown

COMMANDS = {  # name -> module in this folder, and what it does
    "prepare": ("prepare", "make a dataset: wordnet, chains, esci, beir, trec, pairs, text; or docids for your items"),
    "validate": ("validate", "check ranking data: every problem by file and line, or what the data holds"),
    "recipes": ("recipes", "list recipes, show one with all its settings, explain every setting"),
    "train": ("train", "fine-tune a language model to rank"),
    "self-train": ("self_train", "fine-tune on rows that the model writes itself (BASH, RAC)"),
    "dpo": ("dpo", "train a checkpoint on preference pairs (DPO)"),
    "spin": ("spin", "train a checkpoint against its own outputs, in iterations (SPIN)"),
    "evaluate": ("evaluate", "evaluate a checkpoint, or a recipe's untrained model, on the test split"),
    "compare": ("compare", "several evaluations in one table, with paired differences"),
    "rank": ("rank", "rank documents with a checkpoint: JSON lines in, JSON lines out"),
    "export": ("export", "write a trained model whole: adapters merged, weights in one type"),
    "draw-trie": ("draw_trie", "draw one query's trie with ranks and the loss's weights"),
    "reconstruct": ("reconstruct", "embed a subtree of WordNet and reconstruct it: mean rank and MAP"),
    "capacity": ("capacity", "how many orders a ranker can make: section 3 exactly, and a model's output layer"),
    "soft-prompt": ("soft_prompt", "train prompts that make a frozen model write exactly the texts you give"),
    "mismatch": ("mismatch", "repeat the mismatch paper's simulation, and answer its question exactly"),
    "histograms": ("histograms", "draw how long lists, prompts and docIDs are (Figure 3)"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. Without arguments, those of the command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in {*HELP, "--version"}:
        print(version() if words == ["--version"] else usage())
        return 0 if words else 2
    try:
        command, rest = find(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return execute(command, rest)


def find(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that the first word names (of `prepare`, the first two), imported for it, and its arguments."""
    name, *rest = words
    if name not in COMMANDS:
        raise unknown("command", name, list(COMMANDS), " `stoical` lists them.")
    module = importlib.import_module(f"stoical.commands.{COMMANDS[name][0]}")
    if name == "prepare" and rest and rest[0] not in HELP:
        return module.find(rest[0]), rest[1:]
    command: Command = module.main
    return command, rest


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: stoical COMMAND [key=value ...]",
            "",
            *lines,
            "",
            "stoical COMMAND --help explains one. On several devices: accelerate launch -m stoical COMMAND ...",
        ]
    )


def version() -> str:
    """Name and version."""
    from stoical import __version__

    return f"stoical {__version__}"
