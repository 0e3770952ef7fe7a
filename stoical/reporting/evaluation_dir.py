"""The directory that an evaluation is written to: its files, when it may be replaced, and how it is read back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stoical.common.files import check_writable, put_back
from stoical.evaluation.intervals import FEW
from stoical.evaluation.line_checks import Check, is_count, is_number, is_text, objects_of, or_none
from stoical.evaluation.metrics import METRICS
from stoical.evaluation.result import EvaluatedData, QueryResult

METRICS_FILE, PER_QUERY, SUMMARY = "metrics.json", "per_query.jsonl", "summary.md"
RUN, QRELS = "run.txt", "qrels.txt"
FIGURES = {
    "metrics.png": "the paper's metrics, with 95% intervals",
    "scores_by_rank.png": "mean score by gold rank and length of the list",
    "ndcg_by_length.png": f"nDCG by length of the list and of the top docID, with intervals from {FEW} queries on",
    "valid_mass.png": "probability on valid tokens, along the top docID",
}
ASKED_FIGURES = {"reliability.png": "probabilities among a query's documents beside the target"}
DIAGNOSTICS = ("diagnostics.json", "mismatch.png")
GENERATION = "generation.json"
CALIBRATION = ("calibration.json", "reliability.png")
ORDER = "order_sensitivity.json"
FILES = frozenset(
    {METRICS_FILE, PER_QUERY, SUMMARY, RUN, QRELS, *FIGURES, *DIAGNOSTICS, *CALIBRATION, GENERATION, ORDER}
)
NEEDED = {"num_queries", "mode", "score", "terminator", "count_terminator", "data", "per_query_sha256"}
AGAIN = "evaluate again"
SHOWN = 5  # names in an error message


def check_replaceable(directory: Path, data: EvaluatedData | None) -> None:
    """Raise `ValueError` unless an evaluation on `data` may take the place of all that is in `directory`.

    That is nothing, or an earlier evaluation on the same data to which nobody added. The directory itself is replaced,
    so that it can be neither a mount point nor where the user is.
    """
    place = Path(os.path.realpath(directory))
    if place.exists():
        check_writable(place)
        if place.is_mount() or Path.cwd().is_relative_to(place):
            kind = "a mount point" if place.is_mount() else "the directory you are in"
            raise ValueError(
                f"{directory} is {kind}, and an evaluation replaces its directory: give output={place}/eval"
            )
        added = sorted(path.name for path in place.iterdir() if path.name not in FILES or path.is_dir())
        if added:
            shown = ", ".join(added[:SHOWN]) + ", ..." * (len(added) > SHOWN)
            raise ValueError(
                f"{directory} holds what an evaluation does not write ({shown}), which replacing it would remove; move "
                "it, or give another directory with output="
            )
    check_writable(place.parent)
    earlier = _earlier_data(place)
    if data is not None and earlier is not None and earlier.sha256 != data.sha256:
        raise ValueError(
            f"{directory} holds an evaluation on {earlier.exactly}, and this one is on {data.exactly}; remove it, or "
            "give another directory with output="
        )


def _earlier_data(directory: Path) -> EvaluatedData | None:
    """What the evaluation in a directory was made on, where there is one that says so."""
    try:
        return evaluated_data(read_object(directory / METRICS_FILE))
    except (ValueError, OSError):  # damaged, or not there: it says nothing
        return None


def evaluated_data(metrics: Mapping[str, Any]) -> EvaluatedData | None:
    """The data that metrics.json names. Raises `ValueError` where it names them otherwise than it is written."""
    data = metrics.get("data")
    if data is None:
        return None
    keys = ("name", "split", "sha256")
    if not isinstance(data, Mapping) or not all(is_text(data.get(key)) for key in keys):
        raise ValueError(f"has a 'data' without {', '.join(keys)}")
    return EvaluatedData(*(data[key] for key in keys))


def read_evaluation(directory: Path, how: str) -> tuple[dict[str, Any], list[QueryResult]]:
    """metrics.json and the rows of per_query.jsonl. Raises `ValueError` naming the file, and the line, that is wrong.

    Both must be of one evaluation, and whole. What a kill while writing had moved away is put back. `how` to evaluate
    is said where a file is missing.
    """
    put_back(directory)
    metrics_path, rows_path = directory / METRICS_FILE, directory / PER_QUERY
    for path in (metrics_path, rows_path):
        if not path.is_file():
            raise ValueError(f"{directory} has no {path.name}: evaluate first, with: {how}")
    metrics, rows, digest = _metrics(metrics_path), list[QueryResult](), hashlib.sha256()
    with rows_path.open("rb") as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            rows.append(_row(line, f"{rows_path}:{number}"))
    queries = {row.query_id for row in rows}
    if len(queries) != len(rows) or len(rows) != metrics["num_queries"]:
        raise ValueError(
            f"{rows_path} holds {len(queries):,} queries in {len(rows):,} lines, and {metrics_path} is of "
            f"{metrics['num_queries']:,}: {AGAIN}"
        )
    if digest.hexdigest() != metrics["per_query_sha256"]:
        raise ValueError(f"{rows_path} is not the file that {metrics_path} was written with: {AGAIN}")
    return metrics, rows


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `ValueError` naming the file where there is none."""
    return _object(path.read_bytes(), str(path))


def _object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8-sig"))
        if b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair could not be printed
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, brackets without end
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object")
    return value


def _metrics(path: Path) -> dict[str, Any]:
    """metrics.json, its values checked as far as others read them."""
    metrics = read_object(path)
    missing = NEEDED - metrics.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: {AGAIN}")
    wrong = [key for key, check in _checks(metrics).items() if not check(metrics.get(key))]
    if wrong:
        shown = ", ".join(map(reprlib.repr, wrong[:SHOWN]))
        raise ValueError(f"{path} has values of {shown} that no evaluation writes: {AGAIN}")
    try:
        evaluated_data(metrics)
    except ValueError as error:
        raise ValueError(f"{path} {error}: {AGAIN}") from None
    return metrics


def _checks(metrics: Mapping[str, Any]) -> dict[str, Check]:
    """What the keys of metrics.json that tables are made of must be."""
    plain = {metric.name for metric in METRICS if not metric.has_cutoff} & metrics.keys()
    cut = {key for key in metrics if key.startswith(tuple(f"{metric.name}@" for metric in METRICS))}
    checks: dict[str, Check] = dict.fromkeys(plain | cut, is_number)
    checks |= {key: _never for key in cut if not re.fullmatch(r"\w+@[1-9][0-9]{0,8}", key, re.ASCII)}
    checks |= dict.fromkeys(("mode", "score", "terminator", "per_query_sha256"), is_text)
    checks |= {"num_queries": is_count, "count_terminator": lambda value: isinstance(value, bool)}
    checks["references"] = or_none(objects_of(objects_of(is_number)))
    if "free_run_ndcg" in metrics:
        checks["num_beams"] = is_count
    return checks


def _never(value: Any) -> bool:
    """False: there is no such key."""
    return False


def _row(line: bytes, where: str) -> QueryResult:
    found = _object(line, where)
    try:
        return QueryResult.from_json(found)
    except ValueError as error:
        raise ValueError(f"{where} {error}: {AGAIN}") from None
