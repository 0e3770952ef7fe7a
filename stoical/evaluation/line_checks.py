"""What the keys of a line of per_query.jsonl may hold, since such files are cut, edited and mixed up."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, get_args

from stoical.decoding.choices import Scored

Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """True for a finite number, which True and False are not."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def is_count(value: Any) -> bool:
    """True for a whole number, 0 or more."""
    return type(value) is int and value >= 0 and is_number(value)


def is_text(value: Any) -> bool:
    """True for a string."""
    return isinstance(value, str)


def list_of(check: Check, least: int = 0) -> Check:
    """Of a list of at least so many values that all pass."""
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def or_none(check: Check) -> Check:
    """Of a value that is missing or passes."""
    return lambda value: value is None or check(value)


def objects_of(check: Check) -> Check:
    """Of a JSON object all of whose values pass."""
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))


def _is_generation(value: Any) -> bool:
    """True for what `generation_metrics.Generation` holds."""
    return isinstance(value, Mapping) and all(check(value.get(key)) for key, check in GENERATION.items())


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


GENERATION: dict[str, Check] = {
    "target": is_text,
    "text": is_text,
    "exact_match": is_number,
    "edit_similarity": is_number,
    "first_error": or_none(is_count),
    "free_hits": list_of(_is_flag, least=1),
    "forced_hits": list_of(_is_flag, least=1),
    "nll": is_number,
}
LINE: dict[str, tuple[str, Check]] = {  # key -> what it must hold
    "query_id": ("a string", is_text),
    "mode": (f"one of {', '.join(get_args(Scored))}", lambda value: is_text(value) and value in get_args(Scored)),
    "docids": ("a list of strings", list_of(is_text, least=1)),
    "ranks": ("a list of whole numbers", list_of(is_count)),
    "grades": ("a list of numbers and nulls", or_none(list_of(or_none(is_number)))),
    "scores": ("a list of numbers", list_of(is_number)),
    "docid_tokens": ("a list of whole numbers", list_of(is_count)),
    "num_negatives": ("a whole number", is_count),
    "dropped_docs": ("a whole number", is_count),
    "near_ties": ("a whole number", is_count),
    "valid_mass_by_step": ("a list of numbers", or_none(list_of(is_number))),
    "logprobs": ("a list of numbers", or_none(list_of(is_number, least=1))),
    "diagnostics": ("what eval.diagnostics=true writes", or_none(objects_of(objects_of(list_of(is_number))))),
    "generation": ("what eval.generation=true writes", or_none(_is_generation)),
}
PARALLEL = ("docids", "ranks", "scores", "docid_tokens")  # one value a document each


def check_line(line: Mapping[str, Any]) -> None:
    """Raise `ValueError` naming the key that does not hold what it should; what is no known key is a metric."""
    for key, value in line.items():
        what, check = LINE.get(key, ("a number", is_number))
        if not check(value):
            raise ValueError(f"has a {reprlib.repr(key)} that is not {what}")
    if len({len(line[key]) for key in (*PARALLEL, *(["grades"] if line.get("grades") else []))}) > 1:
        raise ValueError(f"has {', '.join(PARALLEL)} of different lengths")
    listed = len(line["docids"]) - line["num_negatives"]
    if listed < 1:
        raise ValueError("has no document that is not a negative")
    if line.get("logprobs") and len(line["logprobs"]) != listed:
        raise ValueError("has logprobs of other documents than those that are not negatives")
