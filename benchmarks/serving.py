"""Queries a second of evaluation and of `stoical rank`, against the forward passes alone of the same queries.

    python -m benchmarks.serving
    python -m benchmarks.serving queries=160 lines=0

WordNet's test queries, a model of the overlay `small` (or another) with random weights, batches as they come in the
file. Everything starts from the data set's rows or from lines of JSON, and ends with metrics or answers.

- `evaluate`: the evaluator; `rank`: lines to answers. Beside each, the forward passes alone of its own batches, made
  beforehand: evaluation sorts queries by length, `rank` has the negatives in its prompts.
- `first answer`: until a stream's first answer is there, as a multiple of a batch's forward pass.
- `search`: beam search over each query's docIDs, the trie in one pass and level by level, against exact scores.
- `memory`: the peak of `stoical rank` as a process of its own, for so many lines of input (`lines=0`: not measured).

Both clocks are shown. Preparing runs in a thread beside the model: wall time has the overlap, processor time has not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

import data_prep.wordnet.hypernyms
import stoical.decoding.beam_search
from benchmarks.measure import Clock, Times, interleaved, markdown_table, spread, waiting, write_results
from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.evaluator import build_evaluator
from stoical.build.model import load_model
from stoical.commands.rank import rank_lines
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.config.loading import load_recipe
from stoical.data.dataset import load_split
from stoical.data.rows import RankingRow
from stoical.decoding.beam_search import beam_search
from stoical.decoding.device_trie import DeviceTrie
from stoical.encoding.packed_batch import PackedBatch
from stoical.evaluation.evaluator import Evaluator, sample
from stoical.models.forward import node_logprobs
from stoical.ranker import Ranker
from stoical.runs.find import find_checkpoint, load_checkpoint
from stoical.training.build import build_trainer
from stoical.trie.prefix_tree import build_trie

COMMAND = "python -m benchmarks.serving"
TINY = ("hidden_size=16", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2")
TINY += ("num_key_value_heads=2",)
BEAMS = 10
CLOCKS: tuple[Clock, Clock] = ("wall", "cpu")
PASSES = ("evaluate", "evaluate forward", "rank", "rank forward")


@dataclass
class ServingOptions:
    """What the user can set; `--help` prints it."""

    recipe: str = option("wordnet_alpha2,small", "the recipe whose prompt, tokenizer and model are timed")
    queries: int = option(320, "test queries")
    batches: str = option("8,32", "queries a batch")
    searched: int = option(32, "queries of the beam search")
    lines: str = option("5000,50000", "lines of input that the memory is measured with, on a model of hidden size 16")
    threads: int = option(1, "torch threads")
    budget: float = option(30.0, "seconds for each batch size; at least 3 rounds are made")
    out: str = option("serving", "results go to benchmarks/results/<out>.json and .md")


def checkpoint_of(recipe: str, directory: str, data: str, *more: str) -> str:
    """A run of one step, in `directory`."""
    words = [f"recipe={recipe}", f"data.path={data}", f"output={directory}", "global_batch_size=2", *more]
    words += ["training.max_steps=1", "training.save_steps=1", "training.eval_strategy=no"]
    build_trainer(load_recipe(*words)).train()
    return directory


def line_of(row: RankingRow) -> bytes:
    """A test query as `stoical rank` reads it, its negatives among the documents."""
    docs = [doc.docid for doc in (*row.docs, *row.negatives)]
    return json.dumps({"query": row.query, "docs": docs}).encode()


@dataclass(frozen=True)
class Served:
    """A loaded model, its evaluator, and the queries in the file's order."""

    ranker: Ranker
    evaluator: Evaluator
    rows: Sequence[RankingRow]

    @classmethod
    def load(cls, checkpoint: str, queries: int) -> Served:
        """As `stoical evaluate` and `stoical rank` load a checkpoint."""
        recipe, adapter = load_checkpoint(find_checkpoint(checkpoint), {})
        tokenizer, test = build_tokenizer(recipe), load_split(recipe.data.path, "test")
        encoder = build_encoder(recipe, tokenizer)
        evaluator = build_evaluator(recipe, test, encoder, queries)
        model = load_model(recipe, tokenizer, adapter).eval()
        return cls(Ranker(model, encoder), evaluator, [test[place] for place in sample(len(test), queries)])

    def evaluated(self, size: int) -> list[PackedBatch]:
        """The batches of evaluation."""
        places = sample(len(self.evaluator.dataset), len(self.rows))
        return [batch for *_, batch in replace(self.evaluator, batch_size=size).batches(places)]

    def ranked(self, size: int) -> list[PackedBatch]:
        """The batches of `stoical rank`."""
        asked = [(row.query, [doc.docid for doc in (*row.docs, *row.negatives)]) for row in self.rows]
        return [self.ranker.prepare(asked[at : at + size]).batch for at in range(0, len(asked), size)]


@torch.no_grad()
def forward(model: torch.nn.Module, batches: Sequence[PackedBatch]) -> None:
    """The forward passes alone."""
    for batch in batches:
        node_logprobs(model, batch)


def time_batches(served: Served, size: int, budget: float) -> dict[str, Times]:
    """Times of all queries, and of the first answer and a batch."""
    model, lines = served.ranker.model, list(map(line_of, served.rows))
    evaluator = replace(served.evaluator, batch_size=size)
    evaluated, ranked = served.evaluated(size), served.ranked(size)

    def answers() -> Iterator[Any]:
        return rank_lines(served.ranker, iter(lines), "lines", batch_size=size)

    variants: Mapping[str, Callable[[], Any]] = {
        "evaluate forward": lambda: forward(model, evaluated),
        "evaluate": lambda: evaluator(model),
        "rank forward": lambda: forward(model, ranked),
        "rank": lambda: list(answers()),
        "a batch": lambda: forward(model, ranked[:1]),
        "first answer": lambda: next(answers()),
    }
    return interleaved(variants, budget, rounds=(3, 40), few={})


def time_search(served: Served, count: int, budget: float) -> dict[str, Times]:
    """Times of beam search, both ways, and of exact scores, query by query."""
    queries = [served.evaluator.dataset[place] for place in range(count)]
    tries = [(query.prompt_ids, DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted)) for query in queries]
    batches = [served.evaluator.collator([query])["batch"] for query in queries]

    def search(few: int) -> None:
        with mock.patch.object(stoical.decoding.beam_search, "FEW", few):
            for prompt_ids, trie in tries:
                beam_search(served.ranker.model, prompt_ids, trie, BEAMS)

    variants: Mapping[str, Callable[[], Any]] = {
        "exact": lambda: forward(served.ranker.model, batches),
        "one pass": lambda: search(stoical.decoding.beam_search.FEW),
        "level by level": lambda: search(0),
    }
    return interleaved(variants, budget, rounds=(3, 40), few={})


def peak(checkpoint: str, lines: Path) -> float:
    """MiB that `stoical rank` takes at most."""
    words = [sys.executable, "-m", "stoical", "rank", f"checkpoint={checkpoint}", f"input={lines}", "batch_size=32"]
    process = os.spawnvpe(os.P_NOWAIT, words[0], [*words, f"output={lines}.out"], os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process, 0)
    assert status == 0, f"{' '.join(words)} failed"
    return usage.ru_maxrss / 1024


def measure_memory(counts: Sequence[int], scratch: str, data: str) -> dict[int, float]:
    """Peaks by number of lines: test queries over and over, two documents each."""
    checkpoint = checkpoint_of("wordnet_ntp,small", f"{scratch}/tiny", data, *(f"model.config.{word}" for word in TINY))
    rows, found = load_split(data, "test"), {}
    for count in counts:
        path = Path(scratch) / f"{count}.jsonl"
        with path.open("w") as file:
            for number in range(count):
                row = rows[number % len(rows)]
                docs = [doc.docid for doc in (*row.docs[:1], *row.negatives)]
                file.write(json.dumps({"query": row.query, "docs": docs}) + "\n")
        found[count] = peak(checkpoint, path)
    return found


def speeds(results: Mapping[int, dict[str, Times]], queries: int) -> str:
    """A table of what is left of the forward passes' queries a second, by both clocks."""
    rows = []
    for size, times in results.items():
        row: dict[str, Any] = {"batch": size}
        for name in ("evaluate", "rank"):
            row[f"{name}, queries/s"] = f"{queries / median(times[name]['cpu']):.0f}"
            for clock in CLOCKS:
                row[f"{name} / forward, {clock}"] = f"{_share(times, f'{name} forward', name, clock):.2f}"
        row["first answer / a batch"] = f"{1 / _share(times, 'a batch', 'first answer', 'wall'):.2f}"
        noise = max(spread(times[name]["cpu"]) for name in PASSES)
        rows.append(row | {"noise": f"{noise:.0%}", "waiting": f"{waiting(times.values()):.0%}"})
    return markdown_table(rows)


def _share(times: dict[str, Times], one: str, other: str, clock: Clock) -> float:
    """The median of the rounds' own ratios."""
    return median(a / b for a, b in zip(times[one][clock], times[other][clock], strict=True))


def search_table(times: dict[str, Times], count: int) -> str:
    """A table of milliseconds a query."""
    ms = {f"{name}, ms": f"{1e3 * median(entry['cpu']) / count:.1f}" for name, entry in times.items()}
    gain = _share(times, "level by level", "one pass", "cpu")
    return markdown_table([ms | {"speed-up": f"{gain:.2f}", "waiting": f"{waiting(times.values()):.0%}"}])


def run(options: ServingOptions) -> None:
    """Time and write the results."""
    torch.set_num_threads(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as scratch:
        data = f"{scratch}/wordnet"
        data_prep.wordnet.hypernyms.build(data_prep.wordnet.hypernyms.WordNetOptions(out=data))
        served = Served.load(checkpoint_of(options.recipe, f"{scratch}/run", data), options.queries)
        sizes = [int(size) for size in options.batches.split(",")]
        results = {size: time_batches(served, size, options.budget) for size in sizes}
        search = time_search(served, options.searched, options.budget)
        counts = [int(count) for count in options.lines.split(",") if int(count)]
        memory = measure_memory(counts, scratch, data)
    tables = {
        "share of the forward passes' queries a second": speeds(results, options.queries),
        f"beam search, {BEAMS} beams, processor time a query": search_table(search, options.searched),
    }
    if memory:
        tables["peak memory of stoical rank"] = markdown_table(
            [{"lines": f"{count:,}", "MiB": f"{most:.0f}"} for count, most in memory.items()]
        )
    record = {"batches": results, "search": search, "memory": memory}
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), record, tables)


def main() -> int:
    """Entry point of `python -m benchmarks.serving`."""
    command = Command(__doc__ or "", lambda given: run(given.options), ServingOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
