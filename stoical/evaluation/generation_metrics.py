"""How a free run differs from the text to be written, and how well its tokens are known where the text is given.

A query's target is its top docID; where several share the first rank, the one that is most like what was written.
All is counted in tokens, the terminator among them, so that a text that does not end is not a match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, TypedDict

import numpy as np


class TextComparison(TypedDict):
    """One free run beside its target.

    exact_match: 1 where they are the same, else 0. free_hits: which positions of the target hold the same token in the
    run; none after its end. first_error: the position, from 1, where they part, or None. edit_similarity: 1 - edit
    distance / the longer length.
    """

    exact_match: float
    edit_similarity: float
    first_error: int | None
    free_hits: list[bool]


class Generation(TextComparison):
    """The comparison, with the target and the text that the model wrote.

    Where the target is given: nll, its negative log-probability (nats), and forced_hits, at which positions its token
    is the likeliest.
    """

    target: str
    text: str
    nll: float
    forced_hits: list[bool]


def compare_texts(target: Sequence[int], written: Sequence[int]) -> TextComparison:
    """One free run beside its target, both as token ids."""
    hits = [place < len(written) and written[place] == token for place, token in enumerate(target)]
    exact = list(target) == list(written)
    return {
        "exact_match": float(exact),
        "edit_similarity": 1 - edit_distance(target, written) / max(len(target), len(written)),
        "first_error": None if exact else 1 + len(list(takewhile(bool, hits))),
        "free_hits": hits,
    }


def nearest(targets: Sequence[Sequence[int]], written: Sequence[int]) -> int:
    """The place of the target that is most like what was written; of equals, the one with the smaller token ids."""
    alike = [compare_texts(target, written)["edit_similarity"] for target in targets]
    return min(range(len(targets)), key=lambda place: (-alike[place], tuple(targets[place])))


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens to insert, delete or replace to turn one into the other (Levenshtein), a row at a time."""
    columns = np.arange(len(second) + 1)
    row, symbols = columns, np.asarray(second)
    for place, symbol in enumerate(first, 1):
        replaced = row[:-1] + (symbols != symbol)
        best = np.concatenate([[place], np.minimum(row[1:] + 1, replaced)])
        row = np.minimum.accumulate(best - columns) + columns  # insertions: the best place to the left, and the way
    return int(row[-1])


def summarise_texts(rows: Sequence[Generation]) -> dict[str, Any]:
    """Means over queries.

    exact_match and edit_similarity are means over queries, first_error over those with one (None: no query has).
    forced_accuracy, free_accuracy and nll (nats) are means over all tokens of all targets. by_position: the two
    accuracies at each position of the target, and how many targets are as long.
    """
    tokens = sum(len(row["free_hits"]) for row in rows)
    errors = [row["first_error"] for row in rows if row["first_error"] is not None]
    forced, free = _by_position([row["forced_hits"] for row in rows]), _by_position([row["free_hits"] for row in rows])
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
