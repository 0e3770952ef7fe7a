"""Write a dataset directory: a parquet file for each split, the licence and manifest.json; all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stoical.common.files import file_sha256, staged, tidy, writing
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
    tidy(place)
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
    with writing(out), staged(out) as draft:
        tables = {split: _table(rows) for split, rows in splits.items()}
        for name, table in (tables | dict(extra or {})).items():
            pq.write_table(table, draft / f"{name}.parquet", compression="zstd")
        (draft / "LICENSE").write_text(licence, encoding="utf-8")
        files = {path.name: {"sha256": file_sha256(path)} for path in sorted(draft.iterdir())}
        counts = {split: count(table) for split, table in tables.items()}
        full = {**manifest, "splits": counts, "files": files}
        (draft / "manifest.json").write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")
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
