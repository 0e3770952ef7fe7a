"""Write a dataset directory: a parquet file for each split, the licence and manifest.json; all or nothing."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stoical.common.files import file_sha256
from stoical.common.lazy import pa, pc, pq
from stoical.data.files import load_manifest

Row = dict[str, Any]
"""A raw row as `stoical.data.rows.parse_row` takes it."""

FORMER = {  # tool -> what it was called when `python -m data_prep.x` was the command
    "stoical prepare wordnet": "data_prep.wordnet",
    "stoical prepare chains": "data_prep.wordnet_text",
    "stoical prepare esci": "data_prep.esci",
    "stoical prepare beir": "data_prep.from_beir",
    "stoical prepare trec": "data_prep.from_trec",
    "stoical prepare pairs": "data_prep.from_pairs",
    "stoical prepare text": "data_prep.from_text",
    "stoical prepare docids": "data_prep.docids",
}


def check_replaceable(out: Path, tool: str) -> None:
    """Raise ValueError unless `out` is absent, empty, or a dataset that `tool` wrote and nobody added to.

    What runs that were killed left beside it is first put back or removed.
    """
    place = Path(os.path.realpath(out))  # unlike `resolve`, it takes links that lead in a circle
    _tidy(place)
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not there.is_dir():
        kind = "is a file" if there.is_file() else "exists and is not a directory"
        raise ValueError(f"out={out}{f': {there}' * (there != place)} {kind}; give a directory")
    if there != place or not any(out.iterdir()):
        return
    if not (out / "manifest.json").is_file():
        raise ValueError(f"out={out} holds something that is not a dataset; give another directory")
    manifest = load_manifest(out)
    if manifest.get("tool") not in (tool, FORMER.get(tool)):
        raise ValueError(f"out={out} holds a dataset that {tool} did not make; give another directory")
    files = manifest.get("files")
    written = {"manifest.json", *(files if isinstance(files, dict) else ())}
    added = {path.name for path in out.iterdir()} - written
    if added:
        raise ValueError(f"out={out} holds files of your own ({', '.join(sorted(added))}); move them first")


def write_dataset(
    out: Path,
    splits: Mapping[str, Sequence[Row] | pa.Table],
    licence: str,
    manifest: Mapping[str, Any],
    extra: Mapping[str, pa.Table] | None = None,
) -> dict[str, Any]:
    """Write `splits`, `licence` and `manifest`, with counts and SHA-256 sums added, to `out`; the manifest.

    A split is rows, or a table of them where it is large. `extra` are tables beside the splits, such as docIDs.
    `manifest` must name its `tool`. The files are written beside `out` and moved into place together, so that
    a run that fails leaves what was there. They hold no time and no path: the same rows give the same bytes
    (with the same pyarrow). Raises ValueError as `check_replaceable` does.
    """
    check_replaceable(out, manifest["tool"])
    out = out.resolve()
    staging = out.with_name(f".{out.name}.new-{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        tables = {split: _table(rows) for split, rows in splits.items()}
        for name, table in (tables | dict(extra or {})).items():
            pq.write_table(table, staging / f"{name}.parquet", compression="zstd")
        (staging / "LICENSE").write_text(licence, encoding="utf-8")
        files = {path.name: {"sha256": file_sha256(path)} for path in sorted(staging.iterdir())}
        counts = {split: count(table) for split, table in tables.items()}
        full = {**manifest, "splits": counts, "files": files}
        (staging / "manifest.json").write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")
        _move_into_place(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return full


def count(table: pa.Table) -> dict[str, float]:
    """How many queries, (query, docID) pairs, pairs a query, and negatives there are."""
    pairs, negatives = (
        pc.sum(pc.list_value_length(table[name])).as_py() or 0 if name in table.column_names else 0
        for name in ("docs", "negatives")
    )
    return {"queries": len(table), "pairs": pairs, "mean_docs": round(pairs / len(table), 4), "negatives": negatives}


def _table(rows: Sequence[Row] | pa.Table) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)


def _move_into_place(staging: Path, out: Path) -> None:
    """Put `staging` where `out` is. A kill between the two renames leaves the old dataset beside it, for `_tidy`."""
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    try:
        staging.rename(out)
    except BaseException:
        _put_back(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _tidy(out: Path) -> None:
    """Put back the dataset that a killed run moved away from `out`; remove what else such runs left beside it."""
    name = re.compile(rf"\.{re.escape(out.name)}\.(new|old)-(\d{{1,9}})")
    found = {path: name.fullmatch(path.name) for path in out.parent.glob(f".{glob.escape(out.name)}.*")}
    left = {path: match for path, match in found.items() if match and path.is_dir() and not path.is_symlink()}
    for path in sorted(left, key=lambda path: path.stat().st_mtime, reverse=True):
        kind, process = left[path].groups()
        if kind == "old":
            _put_back(path, out)
        if not _runs(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    if old.exists() and not os.path.lexists(out):
        old.rename(out)


def _runs(process: int) -> bool:
    """True where another process of this machine has that number."""
    if process == os.getpid():  # this one has left nothing yet: an earlier one had its number
        return False
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # it runs, and is another user's
    return True
