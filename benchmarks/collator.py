"""Queries a second on one core, from dataset rows to packed batches, split into parts.

    python -m benchmarks.collator
    python -m benchmarks.collator data=data/wordnet queries=400 rounds=3

At WordNet's size: rows of the full WordNet dataset, prompt B.1 with Mistral's v3 tokenizer, batches of 8, the loss
settings of four recipes. At ESCI's size: 100 random docIDs of 6 to 8 tokens after a prompt of 6,000 random tokens;
there only the collator is timed (trie, targets, packing).

The parts are timed apart, over the same queries and in turns; `other` is what `end to end` takes beyond them: looking
up docIDs, counting their tokens, making the query. docIDs are tokenized before the clock starts and then cached, as in
training.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

import data_prep.wordnet.hypernyms
from benchmarks.measure import Times, interleaved, markdown_table, spread, waiting, write_results
from benchmarks.synthetic import random_query
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.config.loading import load_recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import load_template
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.encoding.tokenization import DocIDTokenizer, encode_prompt, mistral_v3_tokenizer
from stoical.encoding.tokenized import TokenizedQuery
from stoical.trie.node_weights import TargetSettings, node_weights
from stoical.trie.prefix_tree import build_trie

COMMAND = "python -m benchmarks.collator"
BATCH = 8
ESCI = {"prompt": 6000, "docs": 100, "vocab": 32768}


@dataclass
class CollatorOptions:
    """What the user can set; `--help` prints it."""

    data: str | None = option(None, "a WordNet dataset directory; without it one is made and thrown away")
    recipes: str = option("ntp,alpha2,alpha2_beta2,every_node", "recipes (wordnet_<name>) whose loss settings to time")
    queries: int = option(800, "how many rows of the training split, picked at random")
    esci_queries: int = option(80, "how many queries of ESCI's size")
    rounds: int = option(5, "how often everything is timed")
    seed: int = option(0, "seed of the rows picked and of the shuffles")
    out: str = option("collator", "results go to benchmarks/results/<out>.json and .md")


def batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Consecutive slices of BATCH items."""
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def shared_parts(rows: RankingDataset, picked: Sequence[int], encoder: QueryEncoder) -> dict[str, Callable[[], Any]]:
    """What every recipe does alike: read the row, render the prompt with its shuffle, tokenize it."""
    read = [rows[index] for index in picked]
    texts = [encoder.render(row, row.docs, epoch=0) for row in read]
    return {
        "row access": lambda: [rows[index] for index in picked],
        "render": lambda: [encoder.render(row, row.docs, epoch=0) for row in read],
        "tokenize": lambda: [encode_prompt(encoder.tokenizer, text) for text in texts],
    }


def collator_parts(queries: Sequence[TokenizedQuery], targets: TargetSettings) -> dict[str, Callable[[], Any]]:
    """Trie, targets, and the collator, which holds both and the packing."""
    tries = [(build_trie(query.docid_ids), np.asarray(query.ranks)) for query in queries]
    collator = TrieTargetCollator(targets, pad_id=0, prune=True)
    return {
        "trie": lambda: [build_trie(query.docid_ids) for query in queries],
        "targets": lambda: [node_weights(trie, ranks, targets) for trie, ranks in tries],
        "collator": lambda: [collator(batch) for batch in batches(queries)],
    }


def per_query(times: dict[str, Times], count: int) -> dict[str, float]:
    """Median processor microseconds a query."""
    return {name: 1e6 * median(entry["cpu"]) / count for name, entry in times.items()}


def summarise(recipe: str, times: dict[str, Times], count: int) -> dict[str, Any]:
    """One row of the table: microseconds of every part, and queries a second of all."""
    micros = per_query(times, count)
    whole = micros["end to end"] if "end to end" in micros else micros["collator"]
    timed_apart: tuple[str, ...] = ("row access", "render", "tokenize", "trie", "targets")
    parts = {name: micros[name] for name in timed_apart if name in micros}
    parts["packing"] = micros["collator"] - micros["trie"] - micros["targets"]
    if "end to end" in micros:
        parts["other"] = whole - sum(parts.values())
    row: dict[str, Any] = {"recipe": recipe} | {f"{name}, µs": f"{value:.0f}" for name, value in parts.items()}
    row |= {"all, µs": f"{whole:.0f}", "queries/s": f"{1e6 / whole:.0f}"}
    worst = max(spread(entry["cpu"]) for entry in times.values())
    return row | {"noise": f"{worst:.0%}", "waiting": f"{waiting(times.values()):.0%}"}


def time_wordnet(options: CollatorOptions, directory: str) -> dict[str, dict[str, Times]]:
    """Times of every part, for every recipe."""
    rows = load_split(directory, "train")
    picked = random.Random(options.seed).sample(range(len(rows)), options.queries)
    tokenizer = mistral_v3_tokenizer()
    docid_tokenizer = DocIDTokenizer(tokenizer, "eos", count_terminator=True)
    encoder = QueryEncoder(load_template("wordnet"), tokenizer, docid_tokenizer, max_length=1024, seed=options.seed)
    dataset = EncodedDataset(rows, encoder)
    queries = [dataset[index] for index in picked]
    results = {}
    for recipe in options.recipes.split(","):
        targets = load_recipe(f"recipe=wordnet_{recipe}").loss
        collator = TrieTargetCollator(targets, pad_id=0, prune=True)

        def end_to_end(collator: TrieTargetCollator = collator) -> None:
            for batch in batches(picked):
                collator([dataset[index] for index in batch])

        variants = shared_parts(rows, picked, encoder) | collator_parts(queries, targets) | {"end to end": end_to_end}
        results[recipe] = interleaved(variants, budget=0.0, rounds=(options.rounds, options.rounds), few={})
    return results


def time_esci(options: CollatorOptions) -> dict[str, dict[str, Times]]:
    """Times of trie, targets and collator on random queries of ESCI's size, for every recipe."""
    queries = [random_query(seed, **ESCI) for seed in range(options.esci_queries)]
    results = {}
    for recipe in options.recipes.split(","):
        variants = collator_parts(queries, load_recipe(f"recipe=wordnet_{recipe}").loss)
        results[recipe] = interleaved(variants, budget=0.0, rounds=(options.rounds, options.rounds), few={})
    return results


def run(options: CollatorOptions) -> None:
    """Time both sizes and write the results."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as scratch:
        if options.data is None:
            data_prep.wordnet.hypernyms.build(data_prep.wordnet.hypernyms.WordNetOptions(out=f"{scratch}/wordnet"))
        wordnet = time_wordnet(options, options.data or f"{scratch}/wordnet")
    esci = time_esci(options)
    sizes = {"WordNet": (wordnet, options.queries), "ESCI": (esci, options.esci_queries)}
    tables = {
        f"{title}: processor time a query": markdown_table(
            [summarise(recipe, times, count) for recipe, times in results.items()]
        )
        for title, (results, count) in sizes.items()
    }
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), {"wordnet": wordnet, "esci": esci}, tables)


def main() -> int:
    """Entry point of `python -m benchmarks.collator`."""
    command = Command(__doc__ or "", lambda given: run(given.options), CollatorOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
