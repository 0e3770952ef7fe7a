"""How a free run differs from the text to be written, and how well its tokens are known where the text is given.

A query's target is its first docID. All is counted in tokens, the terminator among them, so that a text that does not
end is no match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

Row = dict[str, Any]


def compare(target: Sequence[int], written: Sequence[int]) -> Row:
    """One free run beside its target.

    free_hits: which positions of the target hold the same token; where the run has ended, none. first_error: the
    position, from 1, where they part, or None. edit_similarity: 1 - edit distance / the longer length.
    """
    hits = [place < len(written) and written[place] == token for place, token in enumerate(target)]
    exact = list(target) == list(written)
    return {
        "exact_match": float(exact),
        "edit_similarity": 1 - edit_distance(target, written) / max(len(target), len(written)),
        "first_error": None if exact else 1 + len(list(takewhile(bool, hits))),
        "free_hits": hits,
    }


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens to insert, delete or replace to turn one into the other (Levenshtein), a row at a time."""
    columns = np.arange(len(second) + 1)
    row, symbols = columns, np.asarray(second)
    for place, symbol in enumerate(first, 1):
        replaced = row[:-1] + (symbols != symbol)
        best = np.concatenate([[place], np.minimum(row[1:] + 1, replaced)])
        row = np.minimum.accumulate(best - columns) + columns  # insertions: the best place to the left, and the way
    return int(row[-1])


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the queries' `generation` rows.

    exact_match and edit_similarity are means over queries, first_error over those with one (None: no query has).
    forced_accuracy, free_accuracy and nll (nats) are means over all tokens of all targets. by_position: the two
    accuracies at each position of the target, and how many targets are as long.
    """
    tokens = sum(len(row["free_hits"]) for row in rows)
    errors = [row["first_error"] for row in rows if row["first_error"] is not None]
    forced, free = (_by_position([row[key] for row in rows]) for key in ("forced_hits", "free_hits"))
    return {
        "num_queries": len(rows),
        "exact_match": sum(row["exact_match"] for row in rows) / len(rows),
        "edit_similarity": sum(row["edit_similarity"] for row in rows) / len(rows),
        "forced_accuracy": sum(sum(row["forced_hits"]) for row in rows) / tokens,
        "free_accuracy": sum(sum(row["free_hits"]) for row in rows) / tokens,
        "nll": sum(row["nll"] for row in rows) / tokens,
        "first_error": sum(errors) / len(errors) if errors else None,
        "by_position": {"targets": [count for count, _ in free], "forced": _shares(forced), "free": _shares(free)},
    }


def _by_position(lists: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """(how many have this position, how many of them are true), position by position."""
    columns = [[values[place] for values in lists if place < len(values)] for place in range(max(map(len, lists)))]
    return [(len(column), sum(column)) for column in columns]


def _shares(counts: Iterable[tuple[int, int]]) -> list[float]:
    return [hits / count for count, hits in counts]
