"""Documents that share a gold rank: how the file lists them changes nothing that an evaluation writes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import MistralForCausalLM

from stoical.data.rows import Doc, RankingRow
from stoical.evaluation.generation_metrics import compare_texts, nearest
from stoical.evaluation.result import Evaluation, QueryResult
from stoical.reporting.compare import Run, compare_runs
from stoical.reporting.report import metrics_file
from stoical.reporting.trec import qrels_lines, run_lines
from tests.support.small_evaluation import encoded, evaluator, make_rows, token_logprobs
from tests.support.small_rows import result
from tests.support.tiny_model import tiny_model


@pytest.fixture(scope="module")
def model() -> MistralForCausalLM:
    return tiny_model().eval()


def graded_rows(shuffle: int | None = None) -> list[RankingRow]:
    """Lists in which the first two to three documents share rank 1, and others ranks below; ties in any order."""
    rows, mixed = [], random.Random(shuffle)
    for index, row in enumerate(make_rows(12, negatives=1)):
        docs, tops = [], 2 + index % 2
        for place, doc in enumerate(row.docs, 1):
            before = docs[-1].rank if docs else 1
            docs.append(replace(doc, rank=1 if place <= tops else before if place % 3 else place))
        if shuffle is not None:
            docs.sort(key=lambda doc: (doc.rank, mixed.random()))
        rows.append(replace(row, docs=tuple(docs)))
    return rows


@pytest.mark.parametrize("count", [True, False])
def test_an_evaluation_is_the_same_however_ties_are_listed(model: MistralForCausalLM, count: bool) -> None:
    """To the bit, the order of the documents in prompts and results with it."""
    settings = {"generation": True, "diagnostics": True, "batch_size": 12}
    first = evaluator(encoded(graded_rows(), count=count), **settings)(model)
    moved = 0
    for seed in range(3):
        moved += graded_rows(seed) != graded_rows()
        other = evaluator(encoded(graded_rows(seed), count=count), **settings)(model)
        assert [row.to_json() for row in other.rows] == [row.to_json() for row in first.rows]
        assert [row.top_tokens for row in other.rows] == [row.top_tokens for row in first.rows]
        assert metrics_file(other) == metrics_file(first)
        assert {"recall@1", "recall@2", "ndcg", "cvr"} <= other.metrics.keys()
        for written in (run_lines, lambda row, tag: sorted(qrels_lines(row))):
            assert [list(written(row, "t")) for row in other.rows] == [list(written(row, "t")) for row in first.rows]
        runs = [Run(Path(name), name, metrics_file(each), by_id(each)) for name, each in (("a", first), ("b", other))]
        assert "+0.00 [+0.00, +0.00]" in compare_runs(runs)
    assert moved == 3


def by_id(evaluation: Evaluation) -> dict[str, QueryResult]:
    return {row.query_id: row for row in evaluation.rows}


def test_the_valid_mass_by_step_is_the_mean_of_the_top_docids(model: MistralForCausalLM) -> None:
    """By loop, with one plain forward a prefix, over those that are as long."""
    dataset, eager = encoded(graded_rows()), tiny_model("eager").eval()
    unlike = 0
    for row, query in zip(evaluator(dataset)(model).rows, [dataset[i] for i in range(12)], strict=True):
        listed = [list(ids) for ids in query.docid_ids[: query.num_listed]]
        tops = [ids for ids, rank in zip(listed, query.ranks, strict=False) if rank == 1]
        steps: list[list[float]] = [[] for _ in range(max(map(len, tops)))]
        for top in tops:
            for step in range(len(top)):
                valid = {ids[step] for ids in listed if ids[:step] == top[:step] and len(ids) > step}
                each = [token_logprobs(eager, list(query.prompt_ids), [*top[:step], token])[-1] for token in valid]
                steps[step].append(sum(np.exp(each)))
        assert row.valid_mass_by_step == pytest.approx([float(np.mean(masses)) for masses in steps], rel=1e-4)
        unlike += len({len(top) for top in tops}) > 1
    assert unlike > 2, "top docIDs of different lengths"


def test_writing_any_of_the_top_documents_is_an_exact_match() -> None:
    """The likest one is the target, whichever stands first; of equals, the one with the smaller token ids."""
    targets = [[5, 6, 2], [4, 6, 2], [4, 7, 7, 2]]
    for written, place in (([4, 7, 7, 2], 2), ([5, 6, 2], 0), ([3, 6, 2], 1), ([9], 1)):
        assert nearest(targets, written) == place
        assert targets[nearest(targets, written)] == targets[::-1][nearest(targets[::-1], written)]
    assert compare_texts(targets[nearest(targets, [4, 7, 7, 2])], [4, 7, 7, 2])["exact_match"] == 1.0


def test_a_model_that_writes_the_second_of_two_top_texts_is_right(
    model: MistralForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for names in (("a", "b c", "d"), ("b c", "a", "d")):
        docs = tuple(Doc(name, rank=rank) for name, rank in zip(names, (1, 1, 3), strict=True))
        dataset = encoded([RankingRow("q", "d e", docs)])
        written = list(dataset.encoder.docid_tokenizer("b c"))
        monkeypatch.setattr("stoical.evaluation.evaluator.greedy_tokens", lambda *_, written=written: [written])
        found.append(evaluator(dataset, generation=True)(model).rows[0].generation)
        nll = -sum(token_logprobs(model, list(dataset[0].prompt_ids), written))
        assert (found[-1]["target"], found[-1]["exact_match"]) == ("b c", 1.0)
        assert found[-1]["nll"] == pytest.approx(nll, rel=1e-4)
    assert found[0] == found[1]


def test_the_length_of_the_top_docid_is_the_mean_of_those_that_share_the_rank() -> None:
    assert result(docids=list("abcd"), ranks=[1, 1, 3, 4], docid_tokens=[2, 5, 9, 9], num_negatives=1).top_tokens == 4
    assert result(docids=list("abc"), ranks=[1, 2, 3], docid_tokens=[2, 5, 9]).top_tokens == 2
    assert result(docids=["a", "b"], ranks=[1, 1], docid_tokens=[3, 4]).top_tokens == 4


def test_documents_of_one_score_and_one_rank_are_listed_by_name() -> None:
    for docids in (["b", "a", "c"], ["a", "b", "c"]):
        row = result(docids=docids, ranks=[1, 1, 3], scores=[-1.0, -1.0, -1.0])
        assert [line.split()[2] for line in run_lines(row, "t")] == ["c", "a", "b"], "the less relevant one first"
