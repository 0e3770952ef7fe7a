"""Scoring the same documents of the same queries, each entrant in its own way: queries a second.

From rows of the dataset on: prompts are rendered and tokenized in every round, on every way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Times, interleaved, spread, waiting
from benchmarks.race import cross_encoder
from benchmarks.race.course import Start
from stoical.data.rows import RankingRow
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.evaluation.evaluator import Evaluator

ROWS = 32  # of one forward pass, where every docID is a row
MAX_DIFFERENCE = 1e-4  # nats, of a docID's mean log-probability
OURS, ROW_EACH, PAIRS = "stoical evaluate", "transformers, a docID a row", "CrossEncoder.predict"


def evaluated(evaluator: Evaluator, model: Any) -> list[float]:
    """The scores of all documents, by the evaluator as `stoical evaluate` calls it, metrics included."""
    return [score for row in evaluator(model).rows for score in row.scores]


@torch.no_grad()
def a_row_each(model: Any, encoder: QueryEncoder, rows: list[RankingRow]) -> list[float]:
    """The mean log-probability of every docID (nats), a row each of prompt and docID, through plain transformers.

    Rows are sorted by length, and logits are made from the first column that a docID begins at.
    """
    encoded = [encoder.encode(row, negatives=True) for row in rows]
    examples = [(list(query.prompt_ids), list(ids)) for query in encoded for ids in query.docid_ids]
    order = sorted(range(len(examples)), key=lambda place: -len(examples[place][0]) - len(examples[place][1]))
    scores = [0.0] * len(examples)
    for begin in range(0, len(order), ROWS):
        places = order[begin : begin + ROWS]
        for place, score in zip(places, mean_logprobs(model, [examples[place] for place in places]), strict=True):
            scores[place] = score
    return scores


def mean_logprobs(model: Any, examples: list[tuple[list[int], list[int]]]) -> list[float]:
    """The mean log-probability of the docIDs of one batch (nats)."""
    width = max(len(prompt) + len(docid) for prompt, docid in examples)
    ids, mask, counts = (torch.zeros(len(examples), width, dtype=torch.long) for _ in range(3))
    for row, (prompt, docid) in enumerate(examples):
        end = len(prompt) + len(docid)
        ids[row, :end], mask[row, :end] = torch.tensor([*prompt, *docid]), 1
        counts[row, len(prompt) : end] = 1
    first = min(len(prompt) for prompt, _ in examples)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=width - first + 1, use_cache=False).logits
    logprobs: Tensor = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, first:, None])[..., 0]
    counted = counts[:, first:]
    means: list[float] = ((logprobs * counted).sum(dim=1) / counted.sum(dim=1)).tolist()
    return means


def score_race(start: Start, count: int, budget: float) -> dict[str, Any]:
    """Queries a second of the three ways on the first `count` test queries, and how far the first two differ."""
    rows = [start.test[index] for index in range(min(count, len(start.test)))]
    dataset = EncodedDataset(rows, start.encoder, negatives=True)
    evaluator = replace(start.evaluator, dataset=dataset, num_queries=None)
    trie_model, plain_model = start.model().eval(), start.model().eval()
    plain_model.set_attn_implementation("sdpa")
    with tempfile.TemporaryDirectory() as directory:
        pairs_model = cross_encoder.build(start, directory)
    pairs = [(row.query, doc.docid) for row in rows for doc in (*row.docs, *row.negatives)]
    calls: dict[str, Callable[[], Any]] = {
        OURS: lambda: evaluated(evaluator, trie_model),
        ROW_EACH: lambda: a_row_each(plain_model, start.encoder, rows),
        PAIRS: lambda: cross_encoder.score(pairs_model, pairs),
    }
    one, other = torch.tensor(calls[OURS]()), torch.tensor(calls[ROW_EACH]())
    worst = float((one - other).abs().max())
    assert worst < MAX_DIFFERENCE, f"the scores differ by {worst} nats"
    times = interleaved(calls, budget, rounds=(3, 20), few={})
    return {"queries": len(rows), "documents": len(pairs), "max_difference_nats": worst, "times": times}


def rates(result: dict[str, Any]) -> dict[str, float]:
    """Queries a second of every way, by the median of the rounds, in processor time."""
    return {name: result["queries"] / median(entry["cpu"]) for name, entry in result["times"].items()}


def noise(result: dict[str, Any]) -> tuple[float, float]:
    """The largest spread of a way's rounds, and the share of wall time in which the process had to wait."""
    times: dict[str, Times] = result["times"]
    return max(spread(entry["cpu"]) for entry in times.values()), waiting(times.values())
