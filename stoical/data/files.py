"""Files of a ranking dataset and the rows in them: JSON lines (gzipped or not), a parquet file, a `datasets` directory.

Rows come with their place, `file:line` (from 1) for JSON lines and `file[index]` (from 0) for the others. What a row
must hold is said in `stoical.data.rows`.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoical.common.files import file_sha256, json_object
from stoical.common.lazy import pa, pq
from stoical.common.text_files import kind, opened

if TYPE_CHECKING:
    import datasets

BATCH_ROWS = 1000
HOW_TO_MAKE = (
    "for WordNet make it with: stoical prepare wordnet out={} (its plain-text task: stoical prepare chains); "
    "stoical prepare --help says what else there is, and docs/data.md how to make your own; data.path=DIR names one "
    "that is elsewhere"
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


def check_dataset(directory: str | Path) -> None:
    """Raise ValueError where a dataset directory, one of its splits or its manifest is missing; no row is read."""
    for split in ("train", "test"):
        find_split(Path(directory), split)
    load_manifest(directory)


def split_files(directory: Path, split: str) -> list[Path]:
    """Whatever there is for a split: <split>.jsonl[.gz], <split>.parquet, <split>/ (from `datasets`' save_to_disk)."""
    files = [directory / f"{split}{ending}" for ending in (".jsonl", ".jsonl.gz", ".parquet")]
    saved = directory / split
    return [path for path in files if path.is_file()] + [saved] * saved.is_dir()


def check_directory(directory: Path) -> None:
    """Raise ValueError where the dataset directory is missing or is a file."""
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
    import datasets

    datasets.disable_progress_bars()  # it would say "Generating train split" of any file
    try:
        pq.read_schema(path)
        return datasets.Dataset.from_parquet(_known_by_its_sum(path), split="train")
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    except datasets.exceptions.DatasetGenerationError as error:  # a page is corrupt
        raise ValueError(f"{path} is not a readable parquet file: {error.__cause__}") from None


def _known_by_its_sum(path: Path) -> Any:
    """A parquet file as `datasets` takes it, for its cache to know it by its bytes.

    By itself it takes a name for a pattern, in which `[` and `*` mean something, and two files of one name and time of
    change, as archives and copies have it, for the same.
    """
    from datasets.data_files import DataFilesDict, DataFilesList

    return DataFilesDict({"train": DataFilesList([str(path.absolute())], [(file_sha256(path),)])})


def _open_saved(path: Path) -> datasets.Dataset:
    import datasets

    try:
        table = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        table = None
    if not isinstance(table, datasets.Dataset):
        raise ValueError(f"{path} is not a single dataset written by datasets' save_to_disk")
    return table.with_format(None)


def raw_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of every row of a file or `datasets` directory, the row for `decoded` to turn into an object.

    Unlike `open_table` it needs no library beside pyarrow for a parquet file, and writes no copy of it.
    """
    if kind(path) == ".jsonl":
        return jsonl_lines(path)
    return table_records(_open_saved(path), path) if path.is_dir() else _placed(_parquet_batches(path), path)


def jsonl_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(file:line, bytes) of every line that is not blank, for `json_value`."""
    with opened(path) as file:
        yield from ((f"{path}:{number}", line) for number, line in numbered(file))


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def json_value(line: bytes, where: str) -> Any:
    """What a line of JSON holds. Raises ValueError, which `where` opens, for a line that is not JSON in UTF-8."""
    try:
        return json.loads(line.strip().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # a syntax error, bytes that are not UTF-8, brackets without end
        reason = str(error).replace("line 1 column", "column")
        raise ValueError(f"{where}: not a JSON object on one line, in UTF-8: {reason}") from None


def json_line(line: bytes, where: str, shape: str = "a JSON object", nan: bool = True) -> dict[str, Any]:
    """The object in a line of JSON, which can be written again. Raises ValueError, which `where` opens, for any other.

    shape: what is expected, for the message. nan: whether NaN and Infinity are taken, which Python writes and JSON
    does not have.
    """
    record = json_value(line, where)
    try:
        json.dumps(record, ensure_ascii=False, allow_nan=nan).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: holds half of a surrogate pair, which is not UTF-8: {error}") from None
    except RecursionError:
        raise ValueError(f"{where}: too many brackets inside each other") from None
    except ValueError:
        raise ValueError(f"{where}: holds NaN or Infinity, which JSON does not have") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected {shape}, got {reprlib.repr(record)}")
    return record


def table_records(table: datasets.Dataset, path: Path) -> Iterator[tuple[str, Any]]:
    """(file[index], record) of every row; index as in `RankingDataset`, from 0."""
    return _placed(table.with_format("arrow").iter(batch_size=BATCH_ROWS), path)


def _parquet_batches(path: Path) -> Iterator[Any]:
    """The record batches of a file. ValueError where it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None


def _placed(batches: Iterable[Any], path: Path) -> Iterator[tuple[str, Any]]:
    """(file[index], record) of every row of tables or record batches that follow each other."""
    records = chain.from_iterable(batch.to_pylist() for batch in batches)
    return ((f"{path}[{index}]", record) for index, record in enumerate(records))


def decoded(row: Any, where: str) -> Any:
    """The row as an object: the bytes of a JSON line decoded, a table's record as it is. ValueError for bad JSON."""
    return json_value(row, where) if isinstance(row, bytes) else row


def split_sha256(directory: str | Path, split: str) -> str:
    """The SHA-256 of a split: of its file, or of the names and sums of the files in its directory."""
    path = find_split(Path(directory), split)
    if path.is_file():
        return file_sha256(path)
    saved = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("cache-"))
    listing = "".join(f"{file_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in saved)
    return hashlib.sha256(listing.encode()).hexdigest()


MANIFEST: dict[str, tuple[type, ...]] = {  # key -> what it may be, where it is there and not null
    **dict.fromkeys(("name", "tool", "licence"), (str,)),
    **dict.fromkeys(("source", "version"), (str, int, float, list, dict)),
    "options": (dict,),
    "splits": (dict,),
    "files": (dict,),
}


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest.json of a dataset directory: source, version, counts, sha256, seed, licence.

    Raises ValueError, naming file and key, if the directory or the file is missing, if the file is not a JSON object,
    and for a key that stoical reads and that holds something else than `MANIFEST` says.
    """
    check_directory(Path(directory))
    path = Path(directory) / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; stoical prepare writes one, and for your own data you do")
    manifest = json_object(path)
    for key, kinds in MANIFEST.items():
        value = manifest.get(key)
        if not (value is None or (isinstance(value, kinds) and not isinstance(value, bool))):
            raise ValueError(
                f"{path}: {key!r} must be {'an object' if kinds == (dict,) else 'text'}, got {reprlib.repr(value)}"
            )
    return {key: value for key, value in manifest.items() if not (key in MANIFEST and value is None)}
