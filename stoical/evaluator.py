"""Dataset and model to metrics: exact scores of all documents and negatives, one forward per batch of queries."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from stoical.forward import Layout, node_logprobs
from stoical.metrics import Floats, mean_metrics, query_metrics
from stoical.packing import TokenizedQuery, TrieTargetCollator
from stoical.queries import EncodedDataset
from stoical.scoring import Reduction, doc_scores, valid_mass

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """metrics: `num_queries`, `dropped_docs` (by truncation), and means: `cvr`, `ndcg`, `recall@k`, `valid_mass`.

    rows: one a query, with its docIDs, ranks and scores (nats).
    """

    metrics: dict[str, float | int]
    rows: list[Row]

    def save(self, directory: Path) -> None:
        """Write `metrics.json` and `per_query.jsonl`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "metrics.json").write_text(json.dumps(self.metrics, indent=2) + "\n")
        with (directory / "per_query.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores a split exactly, shared out over the processes: no query twice, none lost.

    With `num_queries`, a sample of the split, the same one every time.
    """

    dataset: EncodedDataset
    collator: TrieTargetCollator
    score: Reduction
    recall_at: list[int]
    batch_size: int
    layout: Layout
    num_queries: int | None = None

    def __call__(self, model: nn.Module, progress: bool = False) -> Evaluation:
        """Evaluate, with the model in eval mode meanwhile. Every process calls it and gets the whole result."""
        state = PartialState()
        picked = self._sample()
        mine = picked[state.process_index :: state.num_processes]
        most = -(-len(picked) // state.num_processes)
        mine += picked[:1] * (most - len(mine))  # equal work, so that sharded models stay in step; dropped below
        training = model.training
        model.eval()
        rows = list(self._rows(model, mine, show=progress and state.is_main_process))
        model.train(training)
        gathered = rows if state.num_processes == 1 else gather_object(rows)
        by_index = {row.pop("index"): row for row in gathered}
        assert sorted(by_index) == picked, "an evaluation query was lost"
        return Evaluation(self._summary(list(by_index.values())), [by_index[index] for index in picked])

    def _sample(self) -> list[int]:
        total = len(self.dataset)
        if self.num_queries is None or self.num_queries >= total:
            return list(range(total))
        return sorted(random.Random(0).sample(range(total), self.num_queries))

    def _rows(self, model: nn.Module, indices: list[int], show: bool) -> Iterator[Row]:
        device = next(model.parameters()).device
        starts = range(0, len(indices), self.batch_size)
        for start in tqdm(starts, desc="evaluating", unit="batch", disable=not show):
            chosen = indices[start : start + self.batch_size]
            queries = [self.dataset[index] for index in chosen]
            batch = self.collator(queries)["batch"].to(device)
            with torch.no_grad():
                logprobs = node_logprobs(model, batch, self.layout).logprobs
            scores = torch.split(doc_scores(batch, logprobs, self.score).double(), [len(q.docids) for q in queries])
            masses = valid_mass(batch, logprobs).tolist()
            for index, query, own, mass in zip(chosen, queries, scores, masses, strict=True):
                yield {"index": index, **self._row(query, own.cpu().numpy()), "valid_mass": mass}

    def _row(self, query: TokenizedQuery, scores: Floats) -> Row:
        if not np.isfinite(scores).all():
            raise ValueError(f"query {query.query_id!r}: the model's scores are not finite; its weights are broken")
        return {
            "query_id": query.query_id,
            **query_metrics(scores, np.asarray(query.ranks), query.num_negatives, self.recall_at),
            "docids": list(query.docids),
            "ranks": list(query.ranks),
            "scores": scores.tolist(),
            "num_negatives": query.num_negatives,
            "dropped_docs": query.num_dropped,
        }

    def _summary(self, rows: list[Row]) -> dict[str, float | int]:
        names = ("cvr", "ndcg", *(f"recall@{k}" for k in self.recall_at), "valid_mass")
        means = mean_metrics({name: row[name] for name in names if name in row} for row in rows)
        return {"num_queries": len(rows), "dropped_docs": sum(row["dropped_docs"] for row in rows), **means}
