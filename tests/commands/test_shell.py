"""What all commands share: how words are taken apart, help, mistakes in one line, exit codes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from stoical.commands import train
from stoical.commands.main import find
from stoical.commands.shell import AGAIN, RESUME, Command, Given, NoOptions, execute
from stoical.common.options import option


@dataclass
class Inner:
    """A section of options."""

    beta: float = option(0.1, "how steep")


@dataclass
class Options:
    """Options of every kind."""

    output: str = option("", "where it goes", required=True)
    kind: Literal["a", "b"] = option("a", "which of two")
    top: int | None = option(None, "how many, with a text that is so long that help has to break it " * 3)
    own: Inner = field(default_factory=Inner)


def nothing(given: Given) -> None:
    pass


PLAIN = Command("Do a thing.\n\n  stoical thing output=DIR", nothing, Options)
WITH_SETTINGS = Command("Do a thing.", nothing, Options, settings=True, words=1)


def raising(error: BaseException) -> Command:
    def run(given: Given) -> None:
        raise error

    return Command("Fail.", run, bare=True)


def test_words_are_taken_apart() -> None:
    given = WITH_SETTINGS.parse(["output=x=y", "own.beta=2", "training.max_steps=5", "file"])
    assert given.options == Options("x=y", own=Inner(2.0))
    assert given.settings == {"training.max_steps": "5"}
    assert given.words == ["file"]
    assert given.names == {"output", "own.beta"}


@pytest.mark.parametrize("word", ["007", "no", "1:30", "1e3", ".5", "0x1f", "a: b".replace(" ", "")])
def test_texts_that_yaml_takes_for_something_else_stay_as_they_are(word: str) -> None:
    assert PLAIN.parse([f"output={word}"]).options.output == word


BAD = {
    "an option that is not there": ("otput=x", "option 'otput' does not exist. Did you mean 'output'? --help explains"),
    "an option of a section": ("output=x own.bta=1", "option 'own.bta' does not exist. Did you mean 'own.beta'?"),
    "a setting where none is taken": ("output=x seed=1", "option 'seed' does not exist."),
    "a type": ("output=x top=many", "top: Value 'many'"),
    "a choice": ("output=x kind=c", "kind: Invalid value 'c', expected one of ['a', 'b']"),
    "missing": ("kind=b", "give output=, where it goes"),
    "empty": ("output=''", "give output=, where it goes"),
    "twice": ("output=x output=y", "output is given twice, as 'x' and 'y'; give it once"),
    "a word": ("output=x seed", "'seed': arguments are key=value"),
    "a flag": ("--output x", "'--output': arguments are key=value"),
    "no key": ("=3", "'=3': arguments are key=value"),
    "an interpolation": (
        "output=${oc.env:HOME}/x",
        "command line: output=${oc.env:HOME}/x: ${...} is not expanded here",
    ),
    "one inside": ("output=x own.beta=[${a}]", "own.beta=[${a}]: ${...} is not expanded here"),
    "deep": ("output=" + "[" * 5_000, "command line: output="),
    "no YAML": ("output=[1", "command line: output=[1: "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_and_code_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = BAD[case]
    assert execute(PLAIN, words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_commands_of_recipes_take_no_bare_words() -> None:
    for words in (["wordnet_alpha2"], ["--seed", "1"]):
        with pytest.raises(ValueError, match=f"'{words[0]}': arguments are key=value, such as recipe=wordnet_alpha2"):
            train.main.parse(words)


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_says_every_option_with_its_default(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(PLAIN, ["output=x", flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Do a thing.\n\n  stoical thing output=DIR\n")
    lines = out.splitlines()
    for line in ("  output=", "  kind=a", "  top=null", "  own.beta=0.1", "      how steep"):
        assert line in lines
    assert max(map(len, lines)) <= 106
    assert "STOICAL_DEBUG=1 shows the traceback" in out
    assert "stoical recipes" not in out


def test_help_of_a_command_with_settings_says_where_they_are_explained() -> None:
    text = WITH_SETTINGS.help()
    for command in ("stoical recipes ", "stoical recipes show", "stoical recipes keys"):
        assert command in text


def test_without_arguments_there_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(PLAIN, []) == 2
    assert capsys.readouterr().out == PLAIN.help() + "\n"
    called: list[Any] = []
    assert execute(Command("Do it.", called.append, bare=True), []) == 0
    assert len(called) == 1


def test_a_message_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(raising(ValueError("first\n  second\n\n")), []) == 2
    assert capsys.readouterr() == ("", "error: first; second\n")


def test_a_file_error_is_a_mistake_of_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(raising(FileNotFoundError(2, "No such file", "x.json")), []) == 2
    assert capsys.readouterr().err == "error: [Errno 2] No such file: 'x.json'\n"


def test_a_bug_of_ours_is_one_line_that_says_where_its_traceback_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert execute(raising(KeyError("a bug")), []) == 1
    (kept,) = tmp_path.iterdir()
    assert capsys.readouterr() == ("", f"error: unforeseen KeyError: 'a bug' (traceback in {kept})\n")
    assert "Traceback (most recent call last)" in kept.read_text()


@pytest.mark.parametrize("error", [ModuleNotFoundError("x"), RecursionError("x"), OverflowError("x"), MemoryError("x")])
def test_what_a_user_can_bring_about_is_their_mistake(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(raising(error), []) == 2
    assert capsys.readouterr().err == "error: x\n"


def test_a_terminated_run_ends_with_its_code() -> None:
    def terminated(given: Given) -> None:
        raise SystemExit(143)

    assert execute(Command("Do it.", terminated, bare=True), []) == 143


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOICAL_DEBUG", "1")
    with pytest.raises(ValueError, match="mistake"):
        execute(raising(ValueError("mistake")), [])


def test_an_interrupted_command_says_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """As its own help does; nothing resumes an evaluation."""
    for name, way in {"train": RESUME, "self-train": RESUME, "dpo": RESUME, "spin": RESUME, "mismatch": AGAIN}.items():
        command = find([name])[0]
        assert command.goes_on == way
        assert execute(replace(raising(KeyboardInterrupt()), goes_on=way), []) == 130
        assert capsys.readouterr() == ("", f"interrupted; {way}\n")
    for name in ("evaluate", "rank", "validate", "histograms", "draw-trie", "export", "compare"):
        assert (
            execute(replace(find([name])[0], run=raising(KeyboardInterrupt()).run, options=NoOptions, bare=True), [])
            == 130
        )
        assert capsys.readouterr() == ("", "interrupted\n")


def test_only_the_first_process_of_a_machine_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert execute(raising(ValueError("mistake")), []) == 2
    assert execute(PLAIN, ["--help"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_code_is_what_the_command_returns() -> None:
    for code in (None, 0, 2):
        assert execute(Command("Do it.", lambda given, code=code: code, bare=True), []) == (code or 0)
