"""Dataset and model to metrics: scores of all documents and negatives; exact ones take one forward a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from stoical.decoding.choices import Mode, Reduction
from stoical.decoding.free_run import beam_scores, greedy_is_valid, teacher_forced
from stoical.decoding.sampling import greedy_rollouts, greedy_tokens
from stoical.decoding.scores import doc_scores, greedy_path_logprobs, valid_mass, valid_mass_by_step
from stoical.encoding.packing import PackedBatch, TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.diagnostics import Sums, diagnose
from stoical.evaluation.generation_metrics import compare
from stoical.evaluation.metrics import Floats, gold_gains, mean_metrics, ndcg, near_ties, query_metrics
from stoical.models.forward import NodeOutput, node_logprobs
from stoical.models.layouts import Layout
from stoical.models.modes import eval_mode

Row = dict[str, Any]
FREE_RUN = ("valid_mass", "free_run_ndcg", "invalid_rate")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `reporting.report.write_report` writes.

    metrics: `num_queries`, `dropped_docs` (by truncation), means `cvr`, `ndcg`, `recall@k`, `near_ties`, a sum, and in
    exact mode what the model would write: the means `valid_mass`, `free_run_ndcg` (of what a constrained beam search
    finds; what it does not comes last, the least relevant first) and `invalid_rate` (queries whose unconstrained greedy
    decode is none of the docIDs). settings: how documents were scored: `mode`, `score`, `terminator`,
    `count_terminator`, `num_beams`. rows: one a query, with its docIDs, ranks and scores (nats).
    """

    metrics: dict[str, float | int]
    settings: dict[str, str | bool | int]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores a split, shared out over the processes: no query twice, none lost.

    With `num_queries`, a sample of the split, the same one every time. In exact mode, with `diagnostics`, rows have
    those of `diagnostics.diagnose`; with `generation`, the text that unconstrained greedy decoding writes, beside the
    query's first document, by `generation_metrics`. It is cut off at the length of the longest of these. Each process
    stops when its batch has ended, so the model must be its own: neither sharded nor wrapped in DDP.
    """

    dataset: EncodedDataset
    collator: TrieTargetCollator
    mode: Mode
    score: Reduction
    recall_at: list[int]
    batch_size: int
    layout: Layout
    num_beams: int
    num_queries: int | None = None
    diagnostics: bool = False
    generation: bool = False

    def __call__(self, model: nn.Module, progress: bool = False) -> Evaluation:
        """Evaluate, with the model in eval mode meanwhile. Every process calls it and gets the whole result."""
        state = PartialState()
        picked = self._sample()
        mine = picked[state.process_index :: state.num_processes]
        most = -(-len(picked) // state.num_processes)
        mine += picked[:1] * (most - len(mine))  # equal work, so that sharded models stay in step; dropped below
        longest = max(len(self.dataset[index].docid_ids[0]) for index in picked) if self.generation else 0
        with eval_mode(model):
            rows = list(self._rows(model, mine, longest, show=progress and state.is_main_process))
        gathered = rows if state.num_processes == 1 else gather_object(rows)
        by_index = {row.pop("index"): row for row in gathered}
        assert sorted(by_index) == picked, "an evaluation query was lost"
        return Evaluation(
            self._summary(list(by_index.values())), self._settings(), [by_index[index] for index in picked]
        )

    def _sample(self) -> list[int]:
        total = len(self.dataset)
        if self.num_queries is None or self.num_queries >= total:
            return list(range(total))
        return sorted(random.Random(0).sample(range(total), self.num_queries))

    def _rows(self, model: nn.Module, indices: list[int], longest: int, show: bool) -> Iterator[Row]:
        device = next(model.parameters()).device
        starts = range(0, len(indices), self.batch_size)
        for start in tqdm(starts, desc="evaluating", unit="batch", disable=not show):
            chosen = indices[start : start + self.batch_size]
            queries = [self.dataset[index] for index in chosen]
            batch = self.collator(queries)["batch"].to(device)
            with torch.no_grad():
                if self.mode == "exact":
                    logprobs, more = self._exact(model, batch, queries, longest)
                else:
                    logprobs, more = self._greedy_path(model, batch, queries)
            scores = torch.split(doc_scores(batch, logprobs, self.score).double(), [len(q.docids) for q in queries])
            for index, query, own, written in zip(chosen, queries, scores, more, strict=True):
                yield {"index": index, **self._row(query, own.cpu().numpy()), **written}

    def _exact(
        self, model: nn.Module, batch: PackedBatch, queries: list[TokenizedQuery], longest: int
    ) -> tuple[Tensor, list[Row]]:
        """[M] log-probabilities, and what the model would write, query by query."""
        output = node_logprobs(model, batch, self.layout)
        rows = list(_masses(batch, output.logprobs))
        found = beam_scores(batch, output.logprobs, self.num_beams, self.score).cpu()
        beams, valid = torch.split(found, [len(q.docids) for q in queries]), greedy_is_valid(batch, output).tolist()
        for row, query, own, is_valid in zip(rows, queries, beams, valid, strict=True):
            row["free_run_ndcg"] = ndcg(own.numpy(), gold_gains(np.asarray(query.ranks), query.num_negatives))
            row["invalid_rate"] = float(not is_valid)
        if self.diagnostics:
            for row, sums in zip(rows, _by_query(diagnose(batch, output.logprobs)), strict=True):
                row["diagnostics"] = sums
        if longest:
            for row, generated in zip(rows, self._generated(model, batch, output, queries, longest), strict=True):
                row["generation"] = generated
        return output.logprobs, rows

    def _generated(
        self, model: nn.Module, batch: PackedBatch, output: NodeOutput, queries: list[TokenizedQuery], longest: int
    ) -> Iterator[Row]:
        """Each query's first document as the model writes it by itself, and as it knows it where it is given."""
        tokenizer = self.dataset.encoder.tokenizer
        written = greedy_tokens(model, batch, longest, int(tokenizer.eos_token_id))
        logprobs, hits = teacher_forced(batch, output)
        for query, tokens, own, own_hits in zip(queries, written, logprobs, hits, strict=True):
            text = tokenizer.decode(tokens[:-1] if tokens[-1] == tokenizer.eos_token_id else tokens)
            row = compare(query.docid_ids[0], tokens)
            yield {"target": query.docids[0], "text": text, **row, "nll": -sum(own), "forced_hits": own_hits}

    def _greedy_path(
        self, model: nn.Module, batch: PackedBatch, queries: list[TokenizedQuery]
    ) -> tuple[Tensor, list[Row]]:
        steps = int(batch.node_depth.max())
        if PartialState().num_processes > 1:  # as many forwards everywhere, so that sharded models stay in step
            steps = max(gather_object([steps]))
        return greedy_path_logprobs(batch, greedy_rollouts(model, batch, steps)), [{} for _ in queries]

    def _row(self, query: TokenizedQuery, scores: Floats) -> Row:
        if not np.isfinite(scores).all():
            raise ValueError(f"query {query.query_id!r}: the model's scores are not finite; its weights are broken")
        return {
            "query_id": query.query_id,
            "mode": self.mode,
            **query_metrics(scores, np.asarray(query.ranks), query.num_negatives, self.recall_at),
            "docids": list(query.docids),
            "ranks": list(query.ranks),
            "scores": scores.tolist(),
            "docid_tokens": list(query.counted),
            "num_negatives": query.num_negatives,
            "dropped_docs": query.num_dropped,
            "near_ties": near_ties(scores),
        }

    def _summary(self, rows: list[Row]) -> dict[str, float | int]:
        names = ("cvr", "ndcg", *(f"recall@{k}" for k in self.recall_at), *FREE_RUN)
        means = mean_metrics({name: row[name] for name in names if name in row} for row in rows)
        sums = {name: sum(row[name] for row in rows) for name in ("dropped_docs", "near_ties")}
        return {"num_queries": len(rows), "dropped_docs": sums["dropped_docs"], **means, "near_ties": sums["near_ties"]}

    def _settings(self) -> dict[str, str | bool | int]:
        docids = self.dataset.encoder.docid_tokenizer
        return {
            "mode": self.mode,
            "score": self.score,
            "terminator": docids.terminator,
            "count_terminator": docids.terminator != "none" and docids.count_terminator,
            **({"num_beams": self.num_beams} if self.mode == "exact" else {}),
        }


def _masses(batch: PackedBatch, logprobs: Tensor) -> Iterator[Row]:
    """A query's valid mass, and that of each step along its top docID."""
    by_step = valid_mass_by_step(batch, logprobs).cpu()
    for mass, steps in zip(valid_mass(batch, logprobs).tolist(), by_step, strict=True):
        yield {"valid_mass": mass, "valid_mass_by_step": steps[~steps.isnan()].tolist()}


def _by_query(sums: Mapping[str, Sums]) -> Iterator[dict[str, dict[str, list[float]]]]:
    """Each query's part of the diagnostics, as lists over the positions that its docIDs have."""
    lengths = (sums["free_running"].prefixes > 0).sum(dim=1).tolist()
    numbers = {name: {key: value.tolist() for key, value in own._asdict().items()} for name, own in sums.items()}
    for row, length in enumerate(lengths):
        yield {name: {key: values[row][:length] for key, values in own.items()} for name, own in numbers.items()}
