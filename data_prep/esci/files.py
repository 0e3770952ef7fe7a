"""Read ESCI: the two official parquet files, a hub dataset, one joined file, or files of queries and of titles.

A `Table` has the columns that are needed, and says where a row of it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..tables import Table, check_columns, check_text, from_arrow, read_table

EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCTS = "shopping_queries_dataset_products.parquet"
TITLE_COLUMNS = ("product_id", "product_title", "product_locale")
PAIR_COLUMNS = ("query", "product_id", "product_locale")
QUERY_COLUMNS = ("query", "product_locale")
OPTIONAL = ("query_id", "split", "esci_label")
"""Used where a table has them."""
TEXT_COLUMNS = ("query", "product_title", "product_locale", "split", "esci_label")
HOW_TO_GET = (
    f"a directory with {EXAMPLES} and {PRODUCTS} from github.com/amazon-science/esci-data, one joined .parquet or "
    ".jsonl file, or the hub id tasksource/esci"
)


@dataclass(frozen=True)
class EsciSource:
    """The tables that hold queries, those that hold titles and those that hold judged pairs; one may be all three."""

    name: str
    revision: str | None
    queries: list[Table]
    titles: list[Table]
    pairs: list[Table]


def read_source(source: str, revision: str) -> EsciSource:
    """A directory with the official files, one joined file, or a hub id. ValueError for anything else."""
    path = Path(source)
    if not source:
        raise ValueError(f"source= is missing: give {HOW_TO_GET}")
    if revision and path.exists():
        raise ValueError(f"revision={revision} has no effect with files: drop it")
    if path.is_dir():
        return _official(path)
    joined = (*TITLE_COLUMNS, "query")
    if path.is_file():
        table = _read(path, joined)
        return EsciSource(path.name, None, [table], [table], [table])
    if path.suffix or len(path.parts) != 2:
        raise ValueError(f"source={source}: there is no such file or directory; give {HOW_TO_GET}")
    tables = _from_hub(source, revision, joined)
    return EsciSource(source, revision or None, tables, tables, tables)


def read_separate(queries: str, titles: str) -> EsciSource:
    """One file of queries and, separated by commas, one or more of titles. No judged pairs."""
    if not (queries and titles):
        raise ValueError("queries= and titles= go together: one file of queries, and one or more of titles")
    paths = [Path(path) for path in titles.split(",")]
    name = ", ".join(path.name for path in [Path(queries), *paths])
    title_tables = [_read(path, TITLE_COLUMNS) for path in paths]
    return EsciSource(name, None, [_read(Path(queries), QUERY_COLUMNS)], title_tables, [])


def _official(directory: Path) -> EsciSource:
    missing = [name for name in (EXAMPLES, PRODUCTS) if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory} has no {' and no '.join(missing)}; give {HOW_TO_GET}")
    examples = _read(directory / EXAMPLES, PAIR_COLUMNS)
    return EsciSource(
        "amazon-science/esci-data", None, [examples], [_read(directory / PRODUCTS, TITLE_COLUMNS)], [examples]
    )


def _read(path: Path, required: Sequence[str]) -> Table:
    """The table of a .parquet or .jsonl file, its texts checked; ids may be numbers."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return check_text(read_table(path, required, OPTIONAL), TEXT_COLUMNS)


def _from_hub(name: str, revision: str, required: Sequence[str]) -> list[Table]:
    """A table for each split of a hub dataset, with the split's name as its column `split` unless it has one."""
    import datasets

    try:
        splits = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"source={name} is no file here and cannot be loaded from the hub: {reason}") from None
    tables = []
    for split, data in splits.items():
        place = f"{name}/{split}"
        check_columns(data.column_names, required, place)
        wanted = [column for column in (*required, *OPTIONAL) if column in data.column_names]
        table = from_arrow(place, data.select_columns(wanted).with_format("arrow")[:], required, OPTIONAL, place)
        check_text(table, TEXT_COLUMNS)
        table.columns.setdefault("split", [split] * len(table))
        tables.append(table)
    return tables
