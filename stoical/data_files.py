"""Where the rows of a ranking dataset stand on disk: JSON lines, a parquet file, or a `datasets` directory.

Rows come with their place, `file:line` (from 1) for JSON lines and `file[index]` (from 0) for the others. What a row
must hold is `stoical.data`'s to know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 1000
HOW_TO_MAKE = (
    "for WordNet make it with: python -m data_prep.wordnet out={} (its plain-text task: data_prep.wordnet_text); "
    "the README says how to make your own"
)


def find_split(directory: Path, split: str) -> Path:
    """The one file or directory of a split. ValueError where there is none, or several."""
    check_directory(directory)
    found = split_files(directory, split)
    if len(found) > 1:
        raise ValueError(f"{directory} has several files for {split!r} ({_names(found)}); keep one of them")
    if not found:
        raise ValueError(
            f"{directory} has no split {split!r}: looked for {split}.jsonl, {split}.parquet and {split}/, "
            f"found {_names(directory.iterdir()) or 'nothing'}; {HOW_TO_MAKE.format(directory)}"
        )
    return found[0]


def split_files(directory: Path, split: str) -> list[Path]:
    """Whatever there is for a split: <split>.jsonl, <split>.parquet, <split>/ (from `datasets`' `save_to_disk`)."""
    jsonl, parquet, saved = directory / f"{split}.jsonl", directory / f"{split}.parquet", directory / split
    return [path for path in (jsonl, parquet) if path.is_file()] + [saved] * saved.is_dir()


def check_directory(directory: Path) -> None:
    """Raise ValueError unless `directory` is one."""
    if directory.is_file():
        raise ValueError(f"{directory} is a file; give the dataset directory instead ({directory.parent})")
    if not directory.is_dir():
        raise ValueError(f"there is no dataset directory {directory}; {HOW_TO_MAKE.format(directory)}")


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))


def open_table(path: Path) -> datasets.Dataset:
    """The table of a parquet file or a `datasets` directory. ValueError for anything else."""
    return _open_saved(path) if path.is_dir() else _open_parquet(path)


def _open_parquet(path: Path) -> datasets.Dataset:
    try:
        pq.read_schema(path)
        return datasets.Dataset.from_parquet(str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    except datasets.exceptions.DatasetGenerationError as error:  # a page is corrupt
        raise ValueError(f"{path} is not a readable parquet file: {error.__cause__}") from None


def _open_saved(path: Path) -> datasets.Dataset:
    try:
        table = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        table = None
    if not isinstance(table, datasets.Dataset):
        raise ValueError(f"{path} is not a single dataset written by datasets' save_to_disk")
    return table.with_format(None)


def raw_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of every row of a file or `datasets` directory, the row for `decoded` to turn into an object."""
    return jsonl_lines(path) if path.suffix == ".jsonl" else table_records(open_table(path), path)


def jsonl_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(file:line, bytes) of every line that is not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


def table_records(table: datasets.Dataset, path: Path) -> Iterator[tuple[str, Any]]:
    """(file[index], record) of every row; index as in `RankingDataset`, from 0."""
    batches = (batch.to_pylist() for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS))
    return ((f"{path}[{index}]", record) for index, record in enumerate(chain.from_iterable(batches)))


def decoded(row: Any, where: str) -> Any:
    """The row as an object: the bytes of a JSON line decoded, a table's record as it is. ValueError for bad JSON."""
    if not isinstance(row, bytes):
        return row
    try:
        return json.loads(row.strip())
    except (ValueError, RecursionError) as error:  # a syntax error, bytes that are not UTF-8, brackets without end
        reason = str(error).replace("line 1 column", "column")
        raise ValueError(f"{where}: not a JSON object on one line, in UTF-8: {reason}") from None
