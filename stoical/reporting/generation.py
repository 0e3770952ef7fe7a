"""generation.json and its table: the text that a model writes by itself beside the text that was to be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stoical.evaluation.generation_metrics import summarise_texts
from stoical.evaluation.result import QueryResult
from stoical.reporting.evaluation_dir import GENERATION
from stoical.reporting.tables import markdown, percent

TITLES = {
    "exact_match": "exact match (↑)",
    "edit_similarity": "edit similarity (↑)",
    "free_accuracy": "free-running accuracy (↑)",
    "forced_accuracy": "teacher-forced accuracy (↑)",
}


def write_generation(rows: Sequence[QueryResult], directory: Path) -> None:
    """Write the file, from the `generation` of every query."""
    text = json.dumps(summarise_generation(rows), indent=2) + "\n"
    (directory / GENERATION).write_text(text, encoding="utf-8")


def summarise_generation(rows: Iterable[QueryResult]) -> dict[str, Any]:
    """What generation.json holds, from the `generation` of every query that has it."""
    return summarise_texts([row.generation for row in rows if row.generation is not None])


def generation_table(runs: Sequence[tuple[str, Mapping[str, Any]]], data: str = "") -> str:
    """One row a (name, generation.json): per cent, but the mean position of the first error and nats a token.

    `data` names what was evaluated.
    """
    header = [data, *TITLES.values(), "first error at (↑)", "nats a token (↓)", "queries"]
    return markdown([header, *(_cells(name, found) for name, found in runs)])


def _cells(name: str, found: Mapping[str, Any]) -> list[str]:
    first = "–" if found["first_error"] is None else f"{found['first_error']:.1f}"
    return [name, *(percent(found[key]) for key in TITLES), first, f"{found['nll']:.4f}", str(found["num_queries"])]
