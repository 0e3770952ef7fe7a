"""The study as cells that are kept on disk one by one: an interrupted study goes on where it was."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from stoical.common.differences import describe, differences
from stoical.common.fields import unknown
from stoical.common.files import check_writable, json_object, write_whole
from stoical.common.progress import progress
from stoical.studies.capacity import free_embeddings, limit, output_layer, ranker, top_lists
from stoical.studies.capacity.counts import Similarity

RESULTS = "results.json"
PARTS = ("ceilings", "lists", "output", "ranker", "limit")  # beside `thresholds`, which are formulas alone
PACKAGES = ("stoical", "torch", "transformers", "numpy", "scipy")
Row = dict[str, Any]
Work = tuple[Row, Callable[[], Row]]  # what a cell depends on, and how its numbers are found


@dataclass(frozen=True)
class Sizes:
    """How far the study goes. The defaults take minutes on two cores, QUICK takes seconds."""

    ceilings: int = 7  # documents, at most
    ceiling_seeds: int = 5
    ceiling_steps: int = 2_000
    lists: tuple[tuple[int, int], ...] = ((20, 2), (12, 2), (10, 3), (8, 4))  # documents, length
    ranker: tuple[tuple[int, int], ...] = (  # documents, steps of training at most
        *((3, 400), (4, 800), (5, 1_500)),
        *((6, 2_000), (7, 3_000), (8, 6_000)),
    )
    ranker_hidden: int = 4
    ranker_seeds: int = 1
    ranker_batch: int = 64
    limit: int = 6  # dimensions, at most
    limit_seeds: int = 3
    limit_steps: int = 20_000
    limit_most: int = 60
    output: int = 6  # tokens
    output_seeds: int = 5
    trie: int = 8  # docIDs


QUICK = Sizes(
    ceilings=4,
    ceiling_seeds=1,
    ceiling_steps=300,
    lists=((6, 2),),
    ranker=((3, 400),),
    ranker_batch=6,
    limit=3,
    limit_seeds=1,
    limit_steps=400,
    limit_most=5,
    output=4,
    output_seeds=1,
    trie=4,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One number or a few: the part of the study, what it depends on, and how it is found."""

    part: str
    key: Row
    work: Callable[[], Row]

    @property
    def name(self) -> str:
        """What it is called in results.json."""
        return ", ".join([self.part, *(f"{key}={value}" for key, value in self.key.items())])


def cells(sizes: Sizes, parts: Sequence[str]) -> Iterator[Cell]:
    """All cells of some parts, in order."""
    makers = {"ceilings": _ceilings, "lists": _lists, "ranker": _ranker, "limit": _limit, "output": _output}
    for part in PARTS:
        if part in parts:
            for key, work in makers[part](sizes):
                yield Cell(part, key, work)


def _ceilings(sizes: Sizes) -> Iterator[Work]:
    for k in range(2, sizes.ceilings + 1):
        for n, similarity, seed in itertools.product(range(1, k), get_args(Similarity), range(sizes.ceiling_seeds)):
            key = {"documents": k, "dimensions": n, "similarity": similarity, "seed": seed}
            yield key, partial(ceiling, k, n, similarity, seed, sizes.ceiling_steps)


def ceiling(k: int, n: int, similarity: Similarity, seed: int, steps: int) -> Row:
    """What a dual encoder of free vectors has right after training, and with the best queries for its documents."""
    documents, trained = free_embeddings.train(k, n, similarity, seed, steps)
    return {"trained": trained, "within_reach": free_embeddings.within_reach(documents, similarity)}


def _lists(sizes: Sizes) -> Iterator[Work]:
    for m, r in sizes.lists:
        yield {"documents": m, "length": r}, partial(ordered_lists, m, r)


def ordered_lists(m: int, r: int) -> Row:
    """How many of the ordered lists of r out of m documents are made in 2 r dimensions."""
    return asdict(top_lists.check_lists(m, r))


def _ranker(sizes: Sizes) -> Iterator[Work]:
    for (k, steps), seed in itertools.product(sizes.ranker, range(sizes.ranker_seeds)):
        key = {"documents": k, "hidden": sizes.ranker_hidden, "seed": seed}
        yield key, partial(small_ranker, k, sizes.ranker_hidden, seed, steps, sizes.ranker_batch)


def small_ranker(k: int, hidden: int, seed: int, steps: int, size: int) -> Row:
    """How many of the k! orders a small autoregressive ranker has right, and after how many steps of training."""
    right, taken = ranker.train(k, hidden, seed, steps, size)
    return {"right": right, "steps": taken}


def _limit(sizes: Sizes) -> Iterator[Work]:
    for d, seed in itertools.product(range(2, sizes.limit + 1), range(sizes.limit_seeds)):
        yield {"dimensions": d, "seed": seed}, partial(critical, d, seed, sizes.limit_steps, sizes.limit_most)


def critical(d: int, seed: int, steps: int, most: int) -> Row:
    """LIMIT's critical n of a dimension."""
    return {"critical_n": limit.critical_n(d, seed, steps, most)}


def _output(sizes: Sizes) -> Iterator[Work]:
    for n, seed in itertools.product(range(1, sizes.output + 1), range(sizes.output_seeds)):
        key = {"tokens": sizes.output, "hidden": n, "docids": sizes.trie, "seed": seed}
        yield key, partial(output, sizes.output, n, sizes.trie, seed)


def output(tokens: int, n: int, docids: int, seed: int) -> Row:
    """A random output layer [V, n]: rank(E'), orders at one token, Proposition 3.1's contradiction, orders over a trie.

    The trie is binary, and every node has a token of its own, so that of all tokens rank(E') is n + 1 at most.
    """
    random = np.random.default_rng(seed)
    rows = random.normal(size=(tokens, n))
    groups = output_layer.contradiction(rows)
    either = None
    if groups is not None:
        either = output_layer.can_precede(rows, *groups) or output_layer.can_precede(rows, *groups[::-1])
    paths = output_layer.own_tokens(ranker.docids(docids))
    trie_tokens = 1 + max(token for path in paths for token in path)
    many = random.normal(size=(trie_tokens, n))
    return {
        "rank": output_layer.rank(rows),
        "orders": free_embeddings.within_reach(rows, "dot"),
        "contradiction": groups,
        "either_possible": either,
        "trie_tokens": trie_tokens,
        "trie_rank": output_layer.rank(many),
        "trie_orders": output_layer.orders_over_trie(many, paths),
    }


def check_parts(parts: Sequence[str]) -> None:
    """Raise `ValueError` for a part that does not exist, and where there is none."""
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS, f" There are {', '.join(PARTS)}.")
    if not parts:
        raise ValueError(f"parts= names no part; there are {', '.join(PARTS)}")


def prepare(output: Path, quick: bool) -> Row:
    """The results that a directory holds, or new ones. `ValueError` where it is something else's, or made otherwise."""
    sizes = json.loads(json.dumps(asdict(QUICK if quick else Sizes())))  # lists for tuples, as a file has them
    settings: Row = {"quick": quick, "sizes": sizes, **{name: importlib.metadata.version(name) for name in PACKAGES}}
    check_writable(output)
    path = output / RESULTS
    if not path.is_file():
        if output.is_dir() and any(each.name != "_lock" for each in output.iterdir()):
            raise ValueError(f"output={output} holds something else than a capacity study; give another directory")
        output.mkdir(parents=True, exist_ok=True)
        return {"settings": settings, "cells": {}}
    found = json_object(path)
    changed = differences({"settings": found.get("settings")}, {"settings": settings})
    if changed:
        changed = {key.removeprefix("settings."): pair for key, pair in changed.items()}
        raise ValueError(f"output={output} is a study made otherwise ({describe(changed)}); give another directory")
    _check_cells(path, found.get("cells"), QUICK if quick else Sizes())
    return found


def _check_cells(path: Path, found: Any, sizes: Sizes) -> None:
    """Raise `ValueError` where what a file holds are not rows of this study's cells."""
    known = {cell.name: {"part": cell.part, **cell.key} for cell in cells(sizes, PARTS)}
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it has no cells; delete it, or give another directory")
    for name, row in found.items():
        whole = isinstance(row, dict) and isinstance(row.get("seconds"), int | float)
        if name not in known or not whole or row | known[name] != row:
            raise ValueError(f"{path} is damaged at {name!r}: delete that cell, or the file, to have it found again")


def carry_out(output: Path, quick: bool, parts: Sequence[str]) -> list[Row]:
    """Find what is missing, under one progress bar, and write each cell as it is found; all rows of results."""
    check_parts(parts)
    results = prepare(output, quick)
    done = results["cells"]
    missing = [cell for cell in cells(QUICK if quick else Sizes(), parts) if cell.name not in done]
    for cell in progress(missing, "capacity study, cells"):
        started = time.process_time()
        found = cell.work()
        done[cell.name] = {"part": cell.part, **cell.key, **found, "seconds": round(time.process_time() - started, 2)}
        write_whole(output / RESULTS, json.dumps(results, indent=1) + "\n")
    return [*done.values()]
