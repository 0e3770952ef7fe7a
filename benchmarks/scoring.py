"""Scoring one test query: exact mode, the paper's proxy and constrained beams against one forward a docID.

    python -m benchmarks.scoring
    python -m benchmarks.scoring docs=10,40 budget=5

A query of WordNet names in the paper's prompt (Appendix B.1), through the evaluator as `evaluate.py` calls it: render,
tokenize, trie, pack, forward, scores, metrics. The model is that of `benchmarks.forward`; its vocabulary of 4,096, a
BPE trained on the names, leaves its head 13% of a token's cost (Mistral-7B's is 2%).

- `exact`: all docIDs in one forward; `proxy`: `eval.mode=free_greedy_path`.
- `one forward a docID`: prompt and docID as one row through transformers' own attention, and nothing else. Where there
  are many, as many as `each` are timed and the time is multiplied up: they are of nearly equal length.
- `greedy` and `beams`: `stoical.decoding` over the query's docIDs, from tokenized docIDs on, building the trie too.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.forward import ForwardOptions, make_model
from benchmarks.measure import Clock, Times, interleaved, markdown_table, spread, waiting, write_results
from data_prep.wordnet.graph import bundled_graph
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.data.rows import Doc, RankingRow
from stoical.decoding.beam_search import Hypothesis, beam_search, greedy
from stoical.decoding.choices import Mode
from stoical.decoding.device_trie import DeviceTrie
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import load_template
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.encoding.tokenization import DocIDTokenizer, train_bpe
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.evaluator import Evaluator
from stoical.models.layouts import TRIE_ATTENTION
from stoical.trie.node_weights import TargetSettings
from stoical.trie.prefix_tree import build_trie

COMMAND = "python -m benchmarks.scoring"
MAX_DIFFERENCE = 1e-4  # nats, of a docID's mean log-probability


@dataclass
class ScoringOptions:
    """What the user can set; `--help` prints it."""

    docs: str = option("10,40,100", "numbers of documents")
    beams: int = option(10, "beams of the constrained search")
    each: int = option(20, "time no more than this many docIDs in a forward of their own, and multiply up")
    threads: int = option(1, "torch threads; with more, set clock=wall")
    clock: Literal["cpu", "wall"] = option("cpu", "the clock that the tables show; the JSON has both")
    budget: float = option(30.0, "seconds for each number of documents; at least 3 rounds are made")
    seed: int = option(0, "seed of weights, names and shuffle")
    out: str = option("scoring", "results go to benchmarks/results/<out>.json and .md")


def make_dataset(docs: int, seed: int) -> EncodedDataset:
    """One query with `docs` random WordNet names."""
    names = random.Random(seed).sample(sorted(bundled_graph().parents), docs + 1)
    row = RankingRow("q", names[0], tuple(map(Doc, names[1:])))
    tokenizer = train_bpe(bundled_graph().parents, ForwardOptions().vocab)
    docid_tokenizer = DocIDTokenizer(tokenizer, "eos", count_terminator=True)
    encoder = QueryEncoder(load_template("wordnet"), tokenizer, docid_tokenizer, max_length=8192, seed=seed)
    return EncodedDataset([row], encoder)  # type: ignore[arg-type]


def one_forward_each(model: PreTrainedModel, query: TokenizedQuery, count: int) -> list[float]:
    """Section 5.1's mean log-probability of the first `count` docIDs, each from a forward of its own (nats)."""
    scores = []
    for ids in query.docid_ids[:count]:
        row = torch.tensor([[*query.prompt_ids, *ids[:-1]]])
        logits = model(input_ids=row, logits_to_keep=len(ids), use_cache=False).logits[0]
        scores.append(logits.log_softmax(dim=-1)[range(len(ids)), ids].mean().item())
    return scores


def scorers(
    dataset: EncodedDataset, trie_model: PreTrainedModel, sdpa_model: PreTrainedModel, options: ScoringOptions
) -> dict[str, Callable[[], Any]]:
    """The ways to score or rank the query's documents; the first two return their scores."""
    collator, query = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False), dataset[0]

    def evaluated(mode: Mode) -> list[float]:
        evaluation = Evaluator(dataset, collator, mode, "mean", [1, 5], batch_size=1, layout="sequence", num_beams=5)(
            trie_model
        )
        scores: list[float] = evaluation.rows[0].scores
        return scores

    def decoded(search: Callable[[DeviceTrie], Hypothesis | list[Hypothesis]]) -> Any:
        return search(DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted))

    return {
        "exact": lambda: evaluated("exact"),
        "one forward a docID": lambda: one_forward_each(sdpa_model, query, options.each),
        "proxy": lambda: evaluated("free_greedy_path"),
        "greedy": lambda: decoded(lambda trie: greedy(trie_model, query.prompt_ids, trie)),
        "beams": lambda: decoded(lambda trie: beam_search(trie_model, query.prompt_ids, trie, options.beams)),
    }


def measure(docs: int, models: tuple[PreTrainedModel, PreTrainedModel], options: ScoringOptions) -> dict[str, Any]:
    """All measurements of one number of documents."""
    dataset = make_dataset(docs, options.seed)
    query, calls = dataset[0], scorers(dataset, *models, options)
    wanted = np.array(calls["one forward a docID"]())
    worst = float(abs(calls["exact"]()[: len(wanted)] - wanted).max())
    assert worst < MAX_DIFFERENCE, f"the scores differ by {worst} nats"
    times = interleaved(calls, options.budget, rounds=(3, 15), few={"one forward a docID": 3})
    scale = docs / len(wanted)
    alone = times["one forward a docID"]
    times["one forward a docID"] = {clock: [value * scale for value in values] for clock, values in alone.items()}
    prompt, trie = len(query.prompt_ids), build_trie(query.docid_ids)
    packed_tokens = prompt + trie.num_nodes - 1 - docs  # leaves are no inputs
    pointwise_tokens = sum(prompt + len(ids) - 1 for ids in query.docid_ids)
    facts = {"docs": docs, "prompt": prompt, "token_ratio": pointwise_tokens / packed_tokens}
    return facts | {"docids_timed": len(wanted), "max_difference_nats": worst, "times": times}


def summarise(results: list[dict[str, Any]], clock: Clock) -> str:
    """Seconds of exact mode, and how many times as long the others take."""
    rows = []
    for result in results:
        times: dict[str, Times] = result["times"]
        middle = {name: median(entry[clock]) for name, entry in times.items()}
        exact = middle["exact"]
        row = {"n": result["docs"], "P": result["prompt"], "token ratio": f"{result['token_ratio']:.1f}"}
        row |= {"exact, s": f"{exact:.3f}"}
        for name in ("one forward a docID", "proxy", "greedy", "beams"):
            row[f"{name} / exact"] = f"{middle[name] / exact:.2f}"
        row["noise"] = f"{max(spread(entry[clock]) for entry in times.values()):.0%}"
        rows.append(row | {"waiting": f"{waiting(times.values()):.0%}"})
    return markdown_table(rows)


def run(options: ScoringOptions) -> None:
    """Time every number of documents and write the results."""
    torch.set_num_threads(options.threads)
    shape = ForwardOptions(seed=options.seed)
    models = (make_model(shape, TRIE_ATTENTION).eval(), make_model(shape, "sdpa").eval())
    with torch.no_grad():
        results = [measure(int(docs), models, options) for docs in options.docs.split(",")]
    tables = {"scoring one query": summarise(results, options.clock)}
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, tables)


def main() -> int:
    """Entry point of `python -m benchmarks.scoring`."""
    command = Command(__doc__ or "", lambda given: run(given.options), ScoringOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
