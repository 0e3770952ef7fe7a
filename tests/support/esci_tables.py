"""A toy of ESCI, in the columns of the official files, and writers for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.root import ROOT

Record = dict[str, Any]
SLICE = ROOT / "tests" / "support" / "esci_slice"
TITLES = {
    "B1": "usb c cable black",
    "B2": "usb hub black",
    "B3": "gas can red",
    "B4": "red usb cable",
    "B5": "gas hub",
    "B6": "black gas can",
}
QUERIES = ((1, "usb cable", "train"), (2, "gas can", "train"), (3, "usb hub", "test"))


def row(record: Record, *names: str) -> Record:
    return {name: record[name] for name in names if name in record}


def products() -> list[Record]:
    return [
        {"product_id": product, "product_title": title, "product_locale": "us"} for product, title in TITLES.items()
    ]


def examples() -> list[Record]:
    """Every product is judged for every query."""
    return [
        {
            "query": query,
            "query_id": number,
            "product_id": product,
            "product_locale": "us",
            "esci_label": "E",
            "split": split,
        }
        for number, query, split in QUERIES
        for product in TITLES
    ]


def joined(spanish: bool = False) -> list[Record]:
    """Examples with their titles; with `spanish`, a query of another locale with three products."""
    rows = [{**example, "product_title": TITLES[example["product_id"]]} for example in examples()]
    if spanish:
        other = {"query": "cargador usb", "query_id": 9, "product_locale": "es", "esci_label": "S", "split": "train"}
        titles = ("cargador usb cable", "usb cargador can", "cargador gas can")
        rows += [{**other, "product_id": f"E{n}", "product_title": title} for n, title in enumerate(titles)]
    return rows


def write(path: Path, records: list[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path
