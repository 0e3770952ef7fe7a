"""Command lines of `key=value` arguments, checked against a dataclass: its fields are the keys that exist.

A field's type, default and `metadata={"help": ...}` are all that a script says about an option.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def option(default: object, explanation: str) -> Any:
    """A field of an options class, with its help."""
    return field(default=default, metadata={"help": explanation})


def run_command(
    schema: type[Options], run: Callable[[Options], None], command: str, about: str, arguments: Sequence[str]
) -> int:
    """Parse `arguments`, call `run` with the options, and return the exit code.

    0: done, or help was asked for. 2: a mistake of the user or a file error, told in one line on stderr.
    """
    if "-h" in arguments or "--help" in arguments:
        print(help_text(schema, command, about))
        return 0
    try:
        run(parse_options(schema, arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error} (--help explains every option)", file=sys.stderr)
        return 2
    return 0


def parse_options(schema: type[Options], arguments: Sequence[str]) -> Options:
    """The options that `arguments` give, defaults elsewhere.

    Raises ValueError for an argument that is not key=value, an unknown key (naming the closest), a key given
    twice, and a value of the wrong type.
    """
    config = OmegaConf.structured(schema)
    given: set[str] = set()
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not of the form key=value")
        if key in given:
            raise ValueError(f"{key} is given twice; keep one")
        given.add(key)
        try:
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([argument]))
            OmegaConf.to_object(config)
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ValueError(f"{argument}: {str(error).splitlines()[0]}") from None
    return cast(Options, OmegaConf.to_object(config))


def help_text(schema: type[Options], command: str, about: str) -> str:
    """What `--help` prints: usage, purpose, and each option with its default."""
    lines = [f"usage: {command} [key=value ...]", "", about.strip(), "", "options, with their defaults:"]
    for each in sorted(fields(schema), key=lambda each: each.name not in schema.__annotations__):  # inherited last
        default = str(each.default).lower() if isinstance(each.default, bool) else each.default
        lines.append(f"  {each.name}={default}")
        lines += textwrap.wrap(each.metadata["help"], 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
