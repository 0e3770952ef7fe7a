"""Make the WordNet dataset: rank the hypernyms of a noun synset from most specific to most abstract.

    stoical prepare wordnet
    stoical prepare wordnet out=data/mammals subtree=mammal.n.01 test_size=175

A query is a noun synset other than the root; its documents are the synsets on one path of hypernym pointers
up to `entity.n.01`, nearest first (SToICaL paper, section 5.1). Each test query also gets a negative: a noun
synset that is neither the query nor a hypernym of it on any path, not only on the one in the row.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stoical.common.options import option
from stoical.common.progress import progress, report

from ..checks import check_least, check_seed
from ..dataset_dir import Row, check_replaceable, write_dataset
from .graph import ROOT, NounGraph, bundled_graph, check_subtree, nltk_graph

TOOL = "stoical prepare wordnet"
Parents = Mapping[str, tuple[str, ...]]
"""Synset name -> the synsets that its hypernym pointers name, in file order; none for the root."""


@dataclass
class WordNetOptions:
    """What the user can set; `--help` prints it."""

    out: str = option("data/wordnet", "the directory to write; a dataset in it is replaced if this command made it")
    source: Literal["bundled", "nltk"] = option(
        "bundled", "bundled: the WordNet 3.0 noun graph that ships with stoical; nltk: NLTK's wordnet corpus"
    )
    download: bool = option(False, "with source=nltk, let NLTK download its corpus if it is missing")
    subtree: str = option(
        ROOT,
        "queries are the synsets whose path passes through this synset (itself excluded), such as "
        "mammal.n.01; their documents still reach the root, and negatives still come from all nouns",
    )
    path: Literal["primary", "longest", "shortest"] = option(
        "primary",
        "which way up where a synset has several hypernyms. primary: the first in WordNet's file, hypernyms "
        "before instance hypernyms; longest, shortest: the one that makes the path up to the root longest or "
        "shortest, the first of equals",
    )
    seed: int = option(0, "seed of the split and of the negatives, 0 to 4294967295")
    test_size: int = option(5000, "how many queries are for testing; the others are for training")
    held_out: bool = option(
        True,
        "false: training has all queries, those for testing too, which a lookup encoder could not know otherwise; "
        "test.parquet is the same either way",
    )
    negatives: int = option(1, "how many negatives a test query gets; training queries have none")


def build(options: WordNetOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    clock = time.perf_counter()
    _check(options)
    graph = bundled_graph() if options.source == "bundled" else nltk_graph(options.download)
    clock = report(clock, f"read the noun graph of WordNet {graph.version}: {len(graph.parents):,} synsets")
    chosen = choose_parents(graph.parents, options.path)
    queries = find_queries(graph.parents, chosen, options.subtree)
    clock = report(clock, f"found {len(queries):,} queries below {options.subtree} on {options.path} paths")
    splits = make_splits(graph.parents, chosen, queries, options)
    clock = report(clock, "split them, listed their documents and sampled negatives")
    manifest = write_dataset(Path(options.out), splits, graph.licence, describe(graph, options))
    for split, counts in manifest["splits"].items():
        print(f"  {split}: " + ", ".join(f"{key} {value:,}" for key, value in counts.items()))
    report(clock, f"wrote {options.out}")


def _check(options: WordNetOptions) -> None:
    check_replaceable(Path(options.out), TOOL)
    if options.download and options.source == "bundled":
        raise ValueError("download=true has no effect with source=bundled: add source=nltk, or drop it")
    check_seed(options.seed)
    check_least(options, test_size=1, negatives=0)


def choose_parents(parents: Parents, path: str) -> dict[str, str]:
    """The next synset up from each synset but the root (see the option `path`); ties go to the first."""
    if path == "primary":
        return {name: above[0] for name, above in parents.items() if above}
    choose = max if path == "longest" else min  # both return the first of equals
    height: dict[str, int] = {}
    chosen: dict[str, str] = {}
    for name in TopologicalSorter(parents).static_order():
        if parents[name]:
            chosen[name] = choose(parents[name], key=height.__getitem__)
        height[name] = 1 + height[chosen[name]] if name in chosen else 0
    return chosen


def climb(chosen: Mapping[str, str], name: str) -> list[str]:
    """The synsets above `name`, nearest first, the root last: the ranked documents of the query `name`."""
    path = []
    while name in chosen:
        name = chosen[name]
        path.append(name)
    return path


def find_queries(parents: Parents, chosen: Mapping[str, str], subtree: str) -> list[str]:
    """The synsets with `subtree` on their path, in file order; ValueError if unknown or if there are none."""
    check_subtree(subtree, parents)
    queries = [name for name in parents if subtree in climb(chosen, name)]
    if not queries:
        raise ValueError(f"subtree={subtree}: no synset has it on its path; give a more general one")
    return queries


def ancestors(parents: Parents, name: str) -> set[str]:
    """Every hypernym of `name`, on any path."""
    found: set[str] = set()
    todo = list(parents[name])
    while todo:
        above = todo.pop()
        if above not in found:
            found.add(above)
            todo += parents[above]
    return found


def sample_negatives(
    parents: Parents, names: Sequence[str], query: str, number: int, random: np.random.RandomState
) -> list[str]:
    """`number` different synsets out of `names`, none of them `query` or a hypernym of it on any path."""
    excluded = ancestors(parents, query) | {query}
    left = len(names) - len(excluded)
    if number > left:
        raise ValueError(f"negatives={number}: for {query} there are only {left:,} to choose from")
    negatives: list[str] = []
    while len(negatives) < number:
        name = names[random.randint(len(names))]
        if name not in excluded:
            excluded.add(name)
            negatives.append(name)
    return negatives


def make_splits(
    parents: Parents, chosen: Mapping[str, str], queries: Sequence[str], options: WordNetOptions
) -> dict[str, list[Row]]:
    """The rows of `train` and `test`, each in random order, so that the first n rows are a random sample."""
    if options.test_size >= len(queries):
        some = len(queries) // 6
        raise ValueError(
            f"test_size={options.test_size}: there are {len(queries)} queries, so give less, such as {some}"
        )
    random = np.random.RandomState(options.seed)  # unlike default_rng, the same numbers in every numpy
    shuffled = [queries[i] for i in random.permutation(len(queries))]
    rows = [_row(chosen, query) for query in progress(shuffled, "making rows")]
    train = rows[options.test_size if options.held_out else 0 :]
    test = [dict(row) for row in rows[: options.test_size]]
    names = list(parents)
    for row in test if options.negatives else ():
        negatives = sample_negatives(parents, names, row["query"], options.negatives, random)
        row["negatives"] = [{"docid": name} for name in negatives]
    return {"train": train, "test": test}


def _row(chosen: Mapping[str, str], query: str) -> Row:
    return {"query_id": query, "query": query, "docs": [{"docid": name} for name in climb(chosen, query)]}


def describe(graph: NounGraph, options: WordNetOptions) -> dict[str, Any]:
    """The manifest, without the counts and sums that `write_dataset` adds."""
    return {
        "name": "wordnet",
        "tool": TOOL,
        "source": options.source,
        "version": f"WordNet {graph.version}",
        "licence": f"WordNet {graph.version} licence (Princeton University): see LICENSE",
        "seed": options.seed,
        "options": {key: getattr(options, key) for key in ("subtree", "path", "test_size", "held_out", "negatives")},
    }
