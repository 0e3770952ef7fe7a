"""Write a dataset directory: a parquet file for each split, the licence and manifest.json; all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stoical.common.files import file_sha256
from stoical.common.lazy import pa, pc, pq
from stoical.data.files import load_manifest

Row = dict[str, Any]
"""A raw row as `stoical.data.rows.parse_row` takes it."""


def check_replaceable(out: Path, tool: str) -> None:
    """Raise ValueError unless `out` is absent, empty, or a dataset that `tool` wrote and nobody added to."""
    if out.is_file():
        raise ValueError(f"out={out} is a file; give a directory")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "manifest.json").is_file():
        raise ValueError(f"out={out} holds something that is not a dataset; give another directory")
    manifest = load_manifest(out)
    if manifest.get("tool") != tool:
        raise ValueError(f"out={out} holds a dataset that {tool} did not make; give another directory")
    added = {path.name for path in out.iterdir()} - {"manifest.json", *manifest["files"]}
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
    out = out.resolve()
    check_replaceable(out, manifest["tool"])
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
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    staging.rename(out)
    shutil.rmtree(old, ignore_errors=True)
