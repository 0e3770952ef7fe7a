"""`stoical`: its list of commands, which command is meant, and that all of them explain themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import stoical
from stoical.commands.main import COMMANDS, find
from stoical.commands.prepare import MAKERS
from tests.support.root import ROOT

Cli = Callable[..., tuple[int, str, str]]
ALL = [*([name] for name in COMMANDS), *(["prepare", name] for name in MAKERS)]


def test_without_arguments_there_is_usage_and_code_2(cli: Cli) -> None:
    code, out, err = cli()
    assert (code, err) == (2, "")
    assert out.startswith("usage: stoical COMMAND [key=value ...]\n")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(COMMANDS)
    for flag in ("--help", "-h", "help"):
        assert cli(flag) == (0, out, "")


def test_the_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"stoical {stoical.__version__}\n", "")


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself(words: list[str], cli: Cli) -> None:
    code, out, err = cli(*words, "--help")
    assert (code, err) == (0, "")
    command, rest = find(words)
    assert rest == []
    assert out == command.help() + "\n"
    first, *others = out.splitlines()
    assert first.endswith((".", ":")) and len(first) <= 120, "the first line says what it does"
    assert any(f"stoical {' '.join(words)}" in line for line in others), "and how it is called"


@pytest.mark.parametrize("words", [words for words in ALL if words != ["recipes"]], ids=" ".join)
def test_every_command_without_arguments_explains_itself_or_works_by_defaults(words: list[str], cli: Cli) -> None:
    command, _ = find(words)
    if not command.bare:
        assert cli(*words) == (2, command.help() + "\n", "")


def test_an_unknown_command_is_told_with_the_nearest(cli: Cli) -> None:
    assert cli("trian") == (
        2, "", "error: command 'trian' does not exist. Did you mean 'train'? `stoical` lists them.\n"
    )  # fmt: skip
    code, _, err = cli("recipe=wordnet_alpha2")
    assert code == 2
    assert "does not exist" in err
    code, _, err = cli("prepare", "wordnt")
    assert code == 2
    assert err.startswith("error: dataset 'wordnt' does not exist. Did you mean 'wordnet'? stoical prepare makes wordn")
    assert cli("prepare", "out=x")[0] == 2


def test_the_scripts_of_a_checkout_are_commands() -> None:
    for name in ("train", "evaluate"):
        text = (ROOT / f"{name}.py").read_text()
        assert f'main(["{name}", *sys.argv[1:]])' in text
        assert len(text.splitlines()) < 10
