"""File systems that cannot do all that a disk can: networks' mounts, without locks or with files that stay."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from stoical.common.files import sync
from stoical.runs.checkpoints import UNFINISHED, discard
from stoical.runs.lock import only_run


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_directory_that_cannot_be_synced_is_left_as_it_is(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="no"):
        sync(tmp_path / "file")


def test_a_full_disk_is_told_of_a_directory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="full"):
        sync(tmp_path)


def test_a_file_that_somebody_reads_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_on_nfs(path: Any, ignore_errors: bool = False) -> None:
        for each in Path(path).glob("*"):
            each.rename(each.with_name(".nfs0001"))
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_text("")
    monkeypatch.setattr(shutil, "rmtree", as_on_nfs)
    discard(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-1").exists()
    assert [path.name for path in (tmp_path / UNFINISHED).rglob(".nfs*")] == [".nfs0001"]


def test_a_file_system_without_locks_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with only_run(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "file system without locks (No locks available)" in caplog.text
