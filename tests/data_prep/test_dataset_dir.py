"""Where a dataset is written: what is refused, what is replaced, and what a killed run leaves."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.dataset_dir import FORMER, check_replaceable, write_dataset
from stoical.commands.prepare import MAKERS

TOOL = "stoical prepare wordnet"
ROWS = {"train": [{"query_id": "q", "query": "q", "docs": [{"docid": "a"}]}]}


def write(out: Path, version: str = "new", tool: str = TOOL) -> None:
    write_dataset(out, ROWS, "licence\n", {"tool": tool, "version": version})


def version(out: Path) -> str:
    return str(json.loads((out / "manifest.json").read_text())["version"])


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": a_socket,
    "file": lambda path: path.write_text("mine"),
    "circle": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("linked", [False, True])
def test_what_exists_and_is_not_a_directory_is_refused(
    kind: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    SPECIAL[kind](Path("it"))
    if linked:
        Path("link").symlink_to("it")
    before = {path: path.lstat() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"is a file; give a directory|exists and is not a directory"):
        write(Path("link" if linked else "it"))
    assert {path: path.lstat() for path in tmp_path.iterdir()} == before


def test_a_path_through_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("mine")
    with pytest.raises(ValueError, match=r"out=\S+it/below/out: \S+/it is a file; give a directory"):
        check_replaceable(tmp_path / "it" / "below" / "out", TOOL)


def test_links_to_directories_stay_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("there", "not_yet"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "there").mkdir()
    for name in ("there", "not_yet"):
        write(tmp_path / name, "first")
        write(tmp_path / name, "second")
        assert (tmp_path / name).is_symlink()
        assert version(tmp_path / "disk" / name) == "second"


KILLED = """
import os, sys
from pathlib import Path
from data_prep.dataset_dir import write_dataset
rename, done = Path.rename, []
def once(path, to):
    if done:
        os._exit(9)
    done.append(rename(path, to))
Path.rename = once
write_dataset(Path(sys.argv[1]), {}, "", {"tool": "stoical prepare wordnet", "version": "new"})
"""


def killed_between_the_renames(out: Path) -> None:
    """Leave the old dataset and the new one beside `out`, neither in its place, of a process that has ended."""
    write(out, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == 9
    assert sorted(path.name.rstrip("0123456789") for path in out.parent.iterdir()) == [".out.new-", ".out.old-"]


def test_the_next_run_puts_back_what_a_killed_one_had_moved(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_between_the_renames(out)
    with pytest.raises(ValueError, match="holds a dataset that stoical prepare chains did not make"):
        check_replaceable(out, "stoical prepare chains")
    assert version(out) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write(out, "new")
    assert version(out) == "new"


def test_what_lies_beside_a_whole_dataset_is_removed_unless_a_run_works_on_it(tmp_path: Path) -> None:
    out, ended = tmp_path / "out", subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(out, "whole")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        mine = [f".out.new-{running.pid}", ".out.new-1a", ".out.more.old-1", ".outer.new-1"]
        for name in (*mine, f".out.old-{ended.pid}", f".out.new-{ended.pid}", f".out.new-{os.getpid()}"):
            (tmp_path / name).mkdir()
        (tmp_path / f".out.new-{ended.pid}9").write_text("a file")
        check_replaceable(out, TOOL)
        assert {path.name for path in tmp_path.iterdir()} == {"out", *mine, f".out.new-{ended.pid}9"}
        running.communicate(b"\n")
    assert version(out) == "whole"


def test_an_interrupt_between_the_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", Path.rename
    write(out, "old")

    def interrupted(path: Path, to: Path) -> Path:
        if ".new-" in path.name:
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(out)
    assert version(out) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_datasets_of_the_former_commands_are_replaced_by_their_own(tmp_path: Path) -> None:
    assert set(FORMER) == {importlib.import_module(f"data_prep.{module}").TOOL for module in MAKERS.values()}
    for tool, former in FORMER.items():
        write(tmp_path / "out", tool=former)
        check_replaceable(tmp_path / "out", tool)
        write(tmp_path / "out", tool=tool)
        with pytest.raises(ValueError, match="did not make"):
            check_replaceable(tmp_path / "out", next(other for other in FORMER if other != tool))
        for path in (tmp_path / "out").iterdir():
            path.unlink()
