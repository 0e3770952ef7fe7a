"""What all commands share: arguments and help out of one dataclass, errors in one line, exit codes.

Exit codes: 0 done; 2 a mistake of the user, of a file or of the machine, one line on stderr; 1 a bug of ours, one line
that says where its traceback is; 130 interrupted; 143 terminated, after a save.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from stoical.common.arguments import parse_options, split_arguments
from stoical.common.fields import unknown
from stoical.common.options import keys_of, value_words

DEBUG_VARIABLE = "STOICAL_DEBUG"
HELP = {"-h", "--help", "help"}
RESUME = "resume=auto continues from the last checkpoint"  # of commands that train with a recipe
AGAIN = "the same command goes on from there"  # of those that keep what they have done in their output
MISTAKES = (ValueError, OSError, ImportError, RecursionError, OverflowError, MemoryError)  # what a user can bring about


@dataclass
class NoOptions:
    """Of a command that has no options of its own."""


@dataclass(frozen=True, slots=True)
class Given:
    """A command line, taken apart: the command's own options, a recipe's settings, and words without `=`."""

    options: Any
    settings: dict[str, str]
    words: list[str]
    names: frozenset[str]  # the options that were given


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what its help says, what it takes, and what it does.

    about: the first line says what it does, the lines after it how it is called. options: a dataclass of its own keys.
    settings: whether it takes a recipe's settings as well. words: the most words without `=` that it takes. goes_on:
    how it does after an interruption, where it can.
    """

    about: str
    run: Callable[[Given], int | None]
    options: type = NoOptions
    settings: bool = False
    words: int = 0
    bare: bool = False  # does it do something without any argument?
    goes_on: str = ""

    def __call__(self, arguments: Sequence[str]) -> int:
        """Parse and run. Raises `ValueError` for a user's mistake; the exit code."""
        return self.run(self.parse(arguments)) or 0

    def parse(self, arguments: Sequence[str]) -> Given:
        """The arguments, taken apart and checked."""
        words = [word for word in arguments if "=" not in word]
        values = split_arguments(word for word in arguments if "=" in word)
        if len(words) > self.words:
            raise ValueError(f"{words[self.words]!r}: arguments are key=value, such as recipe=wordnet_alpha2 or seed=1")
        sections = {each.name for each in fields(self.options)}
        own = {key: value for key, value in values.items() if key.partition(".")[0] in sections}
        rest = {key: value for key, value in values.items() if key not in own}
        if rest and not self.settings:
            known = [key.name for key in keys_of(self.options)]
            raise unknown("option", next(iter(rest)), known, " --help explains every option.")
        return Given(parse_options(self.options, own), rest, words, frozenset(own))

    def help(self) -> str:
        """What --help prints."""
        lines = [self.about.strip()]
        keys = list(keys_of(self.options))
        if keys:
            lines += ["", "options, with their defaults:" if not self.settings else "options beside a recipe's:"]
        for key in keys:
            lines.append(f"  {key.name}={value_words(key.default)}")
            lines += textwrap.wrap(
                key.help, 100, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
            )
        if self.settings:
            lines += [
                "",
                "stoical recipes                    lists recipes and overlays",
                "stoical recipes show NAME[,NAME]   a recipe with every setting and where it comes from",
                "stoical recipes keys [SECTION]     every setting: type, default, and what it is",
            ]
        return "\n".join([*lines, "", f"{DEBUG_VARIABLE}=1 shows the traceback of an error."])


def execute(command: Command, arguments: Sequence[str]) -> int:
    """Run a command as a program: usage, help and mistakes are printed on the main process alone; the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr does: an arrow's code, where the encoding has no arrow
        sys.stdout.reconfigure(errors="backslashreplace")
    if HELP & set(arguments) or not (arguments or command.bare):
        _say(command.help(), sys.stdout)
        return 0 if arguments else 2
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    try:
        code = command(arguments)
    except BrokenPipeError:  # whoever reads our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say("; ".join(["interrupted", *filter(None, [command.goes_on])]), sys.stderr)
        return 130
    except SystemExit as end:  # a run that was terminated has said so
        code = end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _report(error)
    if "accelerate" in sys.modules:
        from stoical.training.launch import end_processes

        end_processes(code)
    return code


def _report(error: Exception) -> int:
    """One line about what went wrong; the exit code. The traceback of a bug of ours goes to a file of its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(lines) or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is a RuntimeError
        text += "; use a smaller batch, layout=sequence or activation checkpointing (dry_run=true counts the memory)"
    elif not isinstance(error, MISTAKES):
        with tempfile.NamedTemporaryFile("w", prefix="stoical-", suffix=".txt", delete=False) as file:
            file.write("".join(traceback.format_exception(error)))
        rank = os.environ.get("RANK")
        where = f"process {rank}, " * (rank is not None) + f"traceback in {file.name}"
        print(f"error: unforeseen {type(error).__name__}: {text} ({where})", file=sys.stderr, flush=True)
        return 1
    _say(f"error: {text}", sys.stderr)
    return 2


def _say(text: str, file: Any) -> None:
    """Print on the main process, quietly where the reader has gone: help is often piped into head."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet_libraries() -> None:
    """Keep transformers and datasets from talking: their warnings are not about ours, and bars of a second flicker."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
