"""Rows of a dataset, good and bad, and the ways to write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets

WHERE = "data/foo/train.jsonl:17"
ROWS = [
    {
        "query_id": "q1",
        "query": "deer",
        "docs": [{"docid": "ruminant", "text": "chews twice", "rank": 1}, {"docid": "mammal", "rank": 1}],
        "negatives": [{"docid": "solarization", "text": "a photograph"}, {"docid": "café"}],
    },
    {"query_id": "q2", "query": "cat", "docs": [{"docid": "feline"}, {"docid": "mammal"}, {"docid": "café"}]},
]


def row(**changes: Any) -> dict[str, Any]:
    """A valid row with some keys changed, or dropped where the change is `...`."""
    raw = {"query_id": "q", "query": "deer", "docs": [{"docid": "a"}, {"docid": "b"}]} | changes
    return {key: value for key, value in raw.items() if value is not ...}


def ranked(*ranks: Any) -> list[dict[str, Any]]:
    return [{"docid": f"d{i}", "rank": rank} for i, rank in enumerate(ranks)]


def write_jsonl(directory: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"{split}.jsonl"
    path.write_text("".join(json.dumps(raw) + "\n" for raw in rows), encoding="utf-8")
    return path


def write_as(kind: str, directory: Path, rows: list[dict[str, Any]]) -> str:
    """Write the split `train`; how its messages begin, before the number of the row and what follows."""
    if kind == "jsonl":
        return f"{write_jsonl(directory, rows)}:"
    table = datasets.Dataset.from_list(rows)
    path = directory / ("train.parquet" if kind == "parquet" else "train")
    directory.mkdir(exist_ok=True)
    table.to_parquet(path) if kind == "parquet" else table.save_to_disk(path)
    return f"{path}["


BAD_ROWS = {
    "not an object": (["q"], "expected an object like"),
    "no query_id": (row(query_id=...), "'query_id' is missing"),
    "empty query_id": (row(query_id=""), "'query_id' is empty"),
    "blank query_id": (row(query_id=" \n"), "'query_id' is empty"),
    "integer query_id": (row(query_id=17), "'query_id' must be a string, got 17"),
    "null query_id": (row(query_id=None), "'query_id' must be a string, got None"),
    "no query": (row(query=...), "'query' is missing"),
    "empty query": (row(query=""), "'query' is empty"),
    "list as query": (row(query=["deer"]), "'query' must be a string, got ['deer']"),
    "half a surrogate pair": (row(query="deer \ud83e"), "'query' holds half of a surrogate pair"),
    "no docs": (row(docs=...), "'docs' is missing"),
    "empty docs": (row(docs=[]), "'docs' is empty; a row needs at least one relevant document"),
    "object as docs": (row(docs={"docid": "a"}), "'docs' must be a list of"),
    "null docs": (row(docs=None), "'docs' must be a list of"),
    "string as doc": (row(docs=["a"]), "docs[0]: expected an object like {\"docid\": ...}, got 'a'"),
    "doc without docid": (row(docs=[{"docid": "a"}, {"text": "x"}]), "docs[1]: 'docid' is missing"),
    "empty docid": (row(docs=[{"docid": ""}]), "docs[0]: 'docid' is empty"),
    "blank docid": (row(docs=[{"docid": "a"}, {"docid": " \t"}]), "docs[1]: 'docid' is empty"),
    "integer docid": (row(docs=[{"docid": 3}]), "docs[0]: 'docid' must be a string, got 3"),
    "empty text": (row(docs=[{"docid": "a", "text": ""}]), "docs[0]: 'text' is empty"),
    "integer text": (row(docs=[{"docid": "a", "text": 3}]), "docs[0]: 'text' must be a string, got 3"),
    "repeated docid": (row(docs=[{"docid": "a"}, {"docid": "b"}, {"docid": "a"}]), "docid 'a' occurs twice"),
    "negative is a doc": (row(negatives=[{"docid": "b"}]), "docid 'b' occurs twice"),
    "repeated negative": (row(negatives=[{"docid": "x"}, {"docid": "x"}]), "docid 'x' occurs twice"),
    "blank negative": (row(negatives=[{"docid": " "}]), "negatives[0]: 'docid' is empty"),
    "string as negatives": (row(negatives="x"), "'negatives' must be a list of"),
    "ranked negative": (row(negatives=[{"docid": "x", "rank": 3}]), "negatives[0]: unknown key 'rank'"),
    "text as grade": (row(docs=[{"docid": "a", "grade": "3"}]), "docs[0]: 'grade' must be a finite number"),
    "yes as grade": (row(docs=[{"docid": "a", "grade": True}]), "docs[0]: 'grade' must be a finite number"),
    "NaN as grade": (row(docs=[{"docid": "a", "grade": float("nan")}]), "(more is better), got nan"),
    "huge grade": (row(docs=[{"docid": "a", "grade": 10**400}]), "docs[0]: 'grade' must be a finite number"),
    "bad grade of a negative": (row(negatives=[{"docid": "x", "grade": []}]), "negatives[0]: 'grade' must be a finite"),
    "misspelt key": (row(querry="deer"), "unknown key 'querry'; did you mean 'query'?"),
    "misspelt required key": (row(docs=..., doc=[{"docid": "a"}]), "unknown key 'doc'; did you mean 'docs'?"),
    "misspelt doc key": (row(docs=[{"doc_id": "a"}]), "docs[0]: unknown key 'doc_id'; did you mean 'docid'?"),
    "alien key": (row(zzz=1), "unknown key 'zzz' (known keys: docs, negatives, query, query_id, weight)"),
    "negative weight": (row(weight=-1), "'weight' must not be negative, got -1; 0 leaves it out of the loss"),
    "weight that is not a number": (row(weight=float("nan")), "'weight' must be a finite number, got nan"),
    "endless weight": (row(weight=float("inf")), "'weight' must be a finite number, got inf"),
    "weight in words": (row(weight="2"), "'weight' must be a finite number, got '2'"),
    "boolean weight": (row(weight=True), "'weight' must be a finite number, got True"),
    "huge weight": (row(weight=10**400), "'weight' must be a finite number, got 1000"),
    "negative weight of a document": (
        row(docs=[{"docid": "a", "weight": -0.5}]),
        "docs[0]: 'weight' must not be negative, got -0.5",
    ),
    "weight of a negative": (row(negatives=[{"docid": "n", "weight": 1}]), "negatives[0]: unknown key 'weight'"),
    "teacher's score that is not a number": (
        row(docs=[{"docid": "a", "teacher_score": float("nan")}]),
        "docs[0]: 'teacher_score' must be a finite number, got nan",
    ),
    "rank 0": (row(docs=ranked(0, 1)), "docs[0]: 'rank' must be a positive integer (1 = best), got 0"),
    "fractional rank": (row(docs=ranked(1, 1.5)), "docs[1]: 'rank' must be a positive integer"),
    "boolean rank": (row(docs=ranked(True, 2)), "docs[0]: 'rank' must be a positive integer"),
    "text as rank": (row(docs=ranked("1")), "docs[0]: 'rank' must be a positive integer (1 = best), got '1'"),
    "rank beyond 31 bits": (row(docs=ranked(2**31)), "docs[0]: 'rank' must be a positive integer"),
    "falling ranks": (row(docs=ranked(1, 2, 1)), "docs[2] has rank 1 after rank 2"),
    "rank ahead of its place": (row(docs=ranked(1, 3)), "docs[1] has rank 3, but only 1 docs before it"),
    "ranks on some docs": (row(docs=ranked(1, None)), "some docs have a 'rank' and some do not"),
}
