"""Dataset and model to metrics: scores of all documents and negatives; exact ones take one forward a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from stoical.common.ahead import ahead
from stoical.common.arrays import Floats
from stoical.common.devices import works_beside
from stoical.common.progress import progress
from stoical.common.time_spent import TimeSpent
from stoical.decoding.choices import Mode, Reduction
from stoical.decoding.free_run import beam_scores, greedy_is_valid, teacher_forced
from stoical.decoding.sampling import greedy_rollouts, greedy_tokens
from stoical.decoding.scores import (
    doc_scores,
    free_greedy_path_logprobs,
    greedy_path_scores,
    valid_mass,
    valid_mass_by_step,
)
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.diagnostics import Sums, diagnose
from stoical.evaluation.generation_metrics import Generation, compare_texts, nearest
from stoical.evaluation.grading import Grading, as_grades
from stoical.evaluation.judged import FreeRun, JudgedQuery
from stoical.evaluation.metrics import Metric, mean_metrics, query_metrics
from stoical.evaluation.paper import near_ties
from stoical.evaluation.result import Diagnostics, Evaluation, QueryResult
from stoical.models.forward import NodeOutput, node_logprobs
from stoical.models.layouts import Layout
from stoical.models.modes import eval_mode

WINDOW = 8  # batches whose queries are sorted by length


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the model shows of one query: the scores [D] of its documents, and in exact mode what it would write."""

    scores: Floats
    free_run: FreeRun | None = None
    diagnostics: Diagnostics | None = None
    generation: Generation | None = None
    logprobs: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores a split, shared out over the processes: no query twice, none lost.

    With `num_queries`, a sample of the split, the same one every time. `asked`: metrics beside those that are always
    computed, `grading`: what the documents' grades count as there. In exact mode, with `calibration`, rows have log
    p(docID) of every document; with `diagnostics`, those of `diagnostics.diagnose`; with `generation`, the text that
    unconstrained greedy decoding writes, beside the query's top document, by `generation_metrics`. It is cut off at the
    length of the longest of these. Each process stops when its batch has ended, so the model must be its own: neither
    sharded nor wrapped in DDP.
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
    calibration: bool = False
    asked: Sequence[Metric] = ()
    grading: Grading = Grading()

    def __call__(self, model: nn.Module, shown: bool = False, spent: TimeSpent | None = None) -> Evaluation:
        """Evaluate, with the model in eval mode meanwhile. Every process calls it and gets the whole result.

        shown: say how far it is, on the main process. spent: gets the time of loader and forward passes.
        """
        state, spent = PartialState(), spent or TimeSpent()
        picked = sample(len(self.dataset), self.num_queries)
        mine = picked[state.process_index :: state.num_processes]
        most = -(-len(picked) // state.num_processes)
        mine += picked[:1] * (most - len(mine))  # equal work, so that sharded models stay in step; dropped below
        longest = max(len(ids) for index in picked for ids in _tops(self.dataset[index])) if self.generation else 0
        with eval_mode(model):
            rows = list(self._rows(model, mine, longest, spent, shown and state.is_main_process))
        by_index = dict(rows if state.num_processes == 1 else gather_object(rows))
        assert sorted(by_index) == picked, "an evaluation query was lost"
        results = [by_index[index] for index in picked]
        return Evaluation(self._summary(results), self._settings(), results)

    def check(self) -> None:
        """Encode and pack all that is evaluated. Raises `ValueError`, naming the query, for what cannot be."""
        batches = self.batches(sample(len(self.dataset), self.num_queries))
        for _ in progress(batches, "looking at the test queries, batches", PartialState().is_main_process):
            pass

    def _rows(
        self, model: nn.Module, indices: list[int], longest: int, spent: TimeSpent, shown: bool
    ) -> Iterator[tuple[int, QueryResult]]:
        device, batches = next(model.parameters()).device, self.batches(indices)
        loaded = spent.waiting_for(ahead(batches) if works_beside(device) else batches, "loader")
        for _ in progress(range(-(-len(indices) // self.batch_size)), "evaluating, batches", shown):
            chosen, queries, packed = next(loaded)
            with spent.on("forward"), torch.no_grad():
                seen = self._seen(model, packed.to(device), queries, longest)
            for index, query, own in zip(chosen, queries, seen, strict=True):
                yield index, self._result(query, own)

    def batches(self, indices: list[int]) -> Iterator[tuple[list[int], list[TokenizedQuery], PackedBatch]]:
        """Places in the split, their queries, and the batch of these, as they are evaluated.

        Queries of like length are together, those of WINDOW batches sorted: attention has less padding.
        """
        for window in _slices(indices, WINDOW * self.batch_size):
            queries = {index: self.dataset[index] for index in window}
            window.sort(key=lambda index: -len(queries[index].prompt_ids))
            for chosen in _slices(window, self.batch_size):
                own = [queries[index] for index in chosen]
                yield chosen, own, self.collator(own)["batch"]

    def _seen(self, model: nn.Module, batch: PackedBatch, queries: list[TokenizedQuery], longest: int) -> list[_Seen]:
        """What the model shows of a batch, in the evaluation's mode."""
        if self.mode == "exact":
            return self._exact(model, batch, queries, longest)
        if self.mode == "free_greedy_path":
            return self._free_greedy_path(model, batch)
        output = node_logprobs(model, batch, self.layout, keep="logits")
        return [_Seen(scores) for scores in _split(batch, greedy_path_scores(batch, output, self.score).double())]

    def _exact(self, model: nn.Module, batch: PackedBatch, queries: list[TokenizedQuery], longest: int) -> list[_Seen]:
        output = node_logprobs(model, batch, self.layout, keep="likeliest")
        nothing = [None] * len(queries)
        parts = zip(
            self._scores(batch, output.logprobs),
            self._free_runs(batch, output),
            _by_query(diagnose(batch, output.logprobs)) if self.diagnostics else nothing,
            self._generated(model, batch, output, queries, longest) if longest else nothing,
            self._logprobs(batch, output.logprobs) if self.calibration else nothing,
            strict=True,
        )
        return [_Seen(*own) for own in parts]

    def _free_greedy_path(self, model: nn.Module, batch: PackedBatch) -> list[_Seen]:
        steps = int(batch.node_depth.max())
        if PartialState().num_processes > 1:  # as many forwards everywhere, so that sharded models stay in step
            steps = max(gather_object([steps]))
        logprobs = free_greedy_path_logprobs(batch, greedy_rollouts(model, batch, steps))
        return [_Seen(scores) for scores in self._scores(batch, logprobs)]

    def _scores(self, batch: PackedBatch, logprobs: Tensor) -> list[Floats]:
        """[D] float64 of each query."""
        return _split(batch, doc_scores(batch, logprobs, self.score).double())

    def _logprobs(self, batch: PackedBatch, logprobs: Tensor) -> Iterator[list[float]]:
        """Log p(docID) of each query's documents, negatives left out."""
        sums = doc_scores(batch, logprobs, "sum").double()
        listed = ~batch.doc_negative
        counts = batch.doc_query[listed].bincount(minlength=len(batch.query_ids)).tolist()
        return (own.tolist() for own in torch.split(sums[listed], counts))

    def _free_runs(self, batch: PackedBatch, output: NodeOutput) -> Iterator[FreeRun]:
        found = _split(batch, beam_scores(batch, output.logprobs, self.num_beams, self.score))
        masses, valid = valid_mass(batch, output.logprobs).tolist(), greedy_is_valid(batch, output).tolist()
        by_step = [steps[~steps.isnan()].tolist() for steps in valid_mass_by_step(batch, output.logprobs).cpu()]
        return map(FreeRun, found, masses, by_step, valid)

    def _generated(
        self, model: nn.Module, batch: PackedBatch, output: NodeOutput, queries: list[TokenizedQuery], longest: int
    ) -> Iterator[Generation]:
        """Each query's top document as the model writes it by itself, and as it knows it where it is given."""
        tokenizer = self.dataset.encoder.tokenizer
        written = greedy_tokens(model, batch, longest, int(tokenizer.eos_token_id))
        places = [nearest(_tops(query), tokens) for query, tokens in zip(queries, written, strict=True)]
        first = torch.searchsorted(batch.doc_query, torch.arange(len(queries), device=batch.doc_query.device))
        logprobs, hits = teacher_forced(batch, output, first + first.new_tensor(places))
        for query, place, tokens, own, own_hits in zip(queries, places, written, logprobs, hits, strict=True):
            text = tokenizer.decode(tokens[:-1] if tokens[-1] == tokenizer.eos_token_id else tokens)
            found = compare_texts(query.docid_ids[place], tokens)
            yield {"target": query.docids[place], "text": text, **found, "nll": -sum(own), "forced_hits": own_hits}

    def _result(self, query: TokenizedQuery, seen: _Seen) -> QueryResult:
        scores = seen.scores
        if not np.isfinite(scores).all():
            raise ValueError(f"query {query.query_id!r}: the model's scores are not finite; its weights are broken")
        grades = as_grades(query.grades)
        judged = JudgedQuery(scores, np.asarray(query.ranks), query.num_negatives, seen.free_run, grades, self.grading)
        return QueryResult(
            query_id=query.query_id,
            mode=self.mode,
            metrics=query_metrics(judged, self.recall_at, self.asked),
            docids=list(query.docids),
            ranks=list(query.ranks),
            scores=scores.tolist(),
            docid_tokens=list(query.counted),
            num_negatives=query.num_negatives,
            dropped_docs=query.num_dropped,
            near_ties=near_ties(scores),
            grades=None if grades is None else list(query.grades),
            valid_mass_by_step=seen.free_run.valid_mass_by_step if seen.free_run else None,
            logprobs=seen.logprobs,
            diagnostics=seen.diagnostics,
            generation=seen.generation,
        )

    @staticmethod
    def _summary(rows: list[QueryResult]) -> dict[str, float | int]:
        dropped, ties = sum(row.dropped_docs for row in rows), sum(row.near_ties for row in rows)
        means = mean_metrics(row.metrics for row in rows)
        return {"num_queries": len(rows), "dropped_docs": dropped, **means, "near_ties": ties}

    def _settings(self) -> dict[str, str | bool | float]:
        docids = self.dataset.encoder.docid_tokenizer
        return {
            "mode": self.mode,
            "score": self.score,
            "terminator": docids.terminator,
            "count_terminator": docids.terminator != "none" and docids.count_terminator,
            **grading_words(self.asked, self.grading),
            **({"num_beams": self.num_beams} if self.mode == "exact" else {}),
        }


def grading_words(asked: Sequence[Metric], grading: Grading) -> dict[str, str | float]:
    """What grades counted as, where a metric read them."""
    words: dict[str, str | float] = {}
    if any(metric.needs_grades for metric in asked):
        words["gains"] = grading.gains.words
    if grading.relevant_above:
        words["relevant_above"] = grading.relevant_above
    return words


def sample(total: int, wanted: int | None, seed: int | str = 0) -> list[int]:
    """Places of the rows of a split that are taken, ascending: all, or `wanted` of them, the same for the same seed."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return sorted(random.Random(seed).sample(range(total), wanted))


def _slices(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _tops(query: TokenizedQuery) -> Sequence[Sequence[int]]:
    """The token ids of the first document, and of those that share its rank: they follow it."""
    return query.docid_ids[: query.num_tops]


def _split(batch: PackedBatch, scores: Tensor) -> list[Floats]:
    """`scores` [D of the batch] as one array a query."""
    counts = batch.doc_query.bincount(minlength=len(batch.query_ids)).tolist()
    return [own.numpy() for own in torch.split(scores.cpu(), counts)]


def _by_query(sums: Mapping[str, Sums]) -> Iterator[Diagnostics]:
    """Each query's part of the diagnostics, as lists over the positions that its docIDs have."""
    lengths = (sums["free_running"].prefixes > 0).sum(dim=1).tolist()
    numbers = {name: {key: value.tolist() for key, value in own._asdict().items()} for name, own in sums.items()}
    for row, length in enumerate(lengths):
        yield {name: {key: values[row][:length] for key, values in own.items()} for name, own in numbers.items()}
