"""generation.json and its table: the text that a model writes by itself beside the text that was to be written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stoical.evaluation.generation_metrics import summarise_texts
from stoical.evaluation.result import QueryResult
from stoical.reporting.tables import markdown, percent

GENERATION = "generation.json"
TITLES = {
    "exact_match": "exact match (↑)",
    "edit_similarity": "edit similarity (↑)",
    "free_accuracy": "free-running accuracy (↑)",
    "forced_accuracy": "teacher-forced accuracy (↑)",
}


def write_generation(rows: Sequence[QueryResult], directory: Path, name: str) -> str:
    """Write the file, from the `generation` of every query, and return the table; `name` is the run's."""
    found = summarise_texts([row.generation for row in rows if row.generation is not None])
    (directory / GENERATION).write_text(json.dumps(found, indent=2) + "\n")
    return generation_table([(name, found)])


def generation_table(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """One row a (name, generation.json): per cent, but the mean position of the first error and nats a token."""
    header = ["", *TITLES.values(), "first error at (↑)", "nats a token (↓)", "queries"]
    return markdown([header, *(_cells(name, found) for name, found in runs)])


def _cells(name: str, found: Mapping[str, Any]) -> list[str]:
    first = "–" if found["first_error"] is None else f"{found['first_error']:.1f}"
    return [name, *(percent(found[key]) for key in TITLES), first, f"{found['nll']:.4f}", str(found["num_queries"])]
