"""stoical/evaluator.py against one plain forward a docID, with the softmax written out."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MistralForCausalLM

import stoical.evaluation.evaluator as evaluating
from stoical.data.rows import Doc, RankingRow
from stoical.decoding.beam_search import beam_search
from stoical.decoding.device_trie import DeviceTrie
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import query_metrics
from stoical.evaluation.paper import gold_gains, near_ties
from stoical.evaluation.result import Evaluation
from stoical.trie.prefix_tree import build_trie
from tests.support.small_evaluation import (
    KS,
    WORDS,
    constrained_scores,
    encoded,
    evaluator,
    greedy_scores,
    make_rows,
    token_logprobs,
)
from tests.support.tiny_model import VOCAB, tiny_model


def brute_force(model: MistralForCausalLM, query: TokenizedQuery, score: str, counted_tail: int) -> list[float]:
    """Section 5.1's score of each docID: the mean of its tokens' log-probabilities (or their sum)."""
    scores = []
    for docid in query.docid_ids:
        logprobs = token_logprobs(model, list(query.prompt_ids), list(docid))
        counted = logprobs[: len(logprobs) + counted_tail]
        scores.append(math.fsum(counted) / (len(counted) if score == "mean" else 1))
    return scores


@pytest.fixture(scope="module")
def model() -> MistralForCausalLM:
    return tiny_model().eval()


@pytest.fixture(scope="module")
def plain() -> MistralForCausalLM:
    """The same weights with transformers' own attention."""
    return tiny_model("eager").eval()


@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
@pytest.mark.parametrize("score", ["mean", "sum"])
@pytest.mark.parametrize(
    ("terminator", "count", "counted_tail"), [("eos", True, 0), ("eos", False, -1), ("none", True, 0)]
)
def test_scores_are_those_of_one_forward_a_docid(
    terminator: str,
    count: bool,
    counted_tail: int,
    score: str,
    layout: str,
    model: MistralForCausalLM,
    plain: MistralForCausalLM,
) -> None:
    dataset = encoded(make_rows(5), terminator, count)
    result = evaluator(dataset, score=score, layout=layout)(model)
    assert len(result.rows) == 5
    for row, query in zip(result.rows, [dataset[i] for i in range(5)], strict=True):
        expected = brute_force(plain, query, score, counted_tail)
        np.testing.assert_allclose(row.scores, expected, atol=5e-6)
        assert row.docids == query.docids
    lengths = {len(ids) for query in (dataset[i] for i in range(5)) for ids in query.docid_ids}
    assert len(lengths) == 3, "docIDs of several lengths, so that mean and sum rank differently"


def test_metrics_are_those_of_the_brute_force_scores(model: MistralForCausalLM, plain: MistralForCausalLM) -> None:
    dataset = encoded(make_rows())
    result = evaluator(dataset)(model)
    expected = []
    for i in range(11):
        query = dataset[i]
        scores = np.array(brute_force(plain, query, "mean", 0))
        expected.append(query_metrics(JudgedQuery(scores, np.array(query.ranks), 1), KS))
    assert result.metrics["num_queries"] == 11
    assert result.metrics["dropped_docs"] == 0
    for name in ("cvr", "ndcg", "recall@1", "recall@2", "recall@5"):
        values = [row[name] for row in expected]
        assert result.metrics[name] == pytest.approx(sum(values) / 11)
        assert [row.metrics[name] for row in result.rows] == pytest.approx(values)
        assert 0 < result.metrics[name] < 1, "an untrained model is neither perfect nor always wrong"


@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
@pytest.mark.parametrize(("mode", "scores"), [("greedy_path", constrained_scores), ("free_greedy_path", greedy_scores)])
def test_greedy_paths_are_scored_and_named(
    mode: str,
    scores: Callable[[Any, TokenizedQuery], list[float]],
    layout: str,
    model: MistralForCausalLM,
    plain: MistralForCausalLM,
) -> None:
    dataset = encoded(make_rows())
    result = evaluator(dataset, mode=mode, layout=layout)(model)
    for index, row in enumerate(result.rows):
        query = dataset[index]
        expected = scores(plain, query)
        np.testing.assert_allclose(row.scores, expected, atol=5e-6)
        metrics = query_metrics(JudgedQuery(np.array(expected), np.array(query.ranks), 1), KS)
        assert row.metrics == pytest.approx(metrics)
        assert row.mode == mode
        line = row.to_json()
        assert "free_run_ndcg" not in line and "invalid_rate" not in line
        assert "valid_mass" not in line and "valid_mass_by_step" not in line, "not what the model would write"
    assert result.settings["mode"] == mode
    assert "valid_mass" not in result.metrics
    exact = evaluator(dataset)(model)
    assert exact.settings["mode"] == "exact" and {row.mode for row in exact.rows} == {"exact"}
    assert exact.metrics["ndcg"] != pytest.approx(result.metrics["ndcg"])


@pytest.mark.parametrize(
    ("terminator", "count", "said"), [("eos", True, True), ("eos", False, False), ("none", True, False)]
)
def test_how_documents_were_scored_is_said(terminator: str, count: bool, said: bool, model: MistralForCausalLM) -> None:
    settings = evaluator(encoded(make_rows(2), terminator, count), score="sum")(model).settings
    expected = {"mode": "exact", "score": "sum", "terminator": terminator, "count_terminator": said, "num_beams": 2}
    assert settings == expected
    proxy = evaluator(encoded(make_rows(2), terminator, count), mode="greedy_path")(model).settings
    assert "num_beams" not in proxy


def test_near_ties_are_counted(model: MistralForCausalLM) -> None:
    assert [near_ties(np.array(scores)) for scores in ([-1.0], [-1.0, -1.0005], [-1.0, -3.0, -1.0, -3.0004])] == [
        0,
        1,
        2,
    ]
    assert near_ties(np.array([-1.0, -1.002])) == 0
    assert near_ties(np.array([-2.0, -2.0009, -2.0018])) == 2, "neighbours, not the ends"
    with torch.no_grad():
        flat = tiny_model().eval()
        flat.lm_head.weight.zero_()  # every token as likely as any other, so every score is -log V
    result = evaluator(encoded(make_rows(4)))(flat)
    neighbours = [len(row.docids) - 1 for row in result.rows]
    assert [row.near_ties for row in result.rows] == neighbours
    assert result.metrics["near_ties"] == sum(neighbours)
    assert evaluator(encoded(make_rows(4)))(model).metrics["near_ties"] < sum(neighbours)


@pytest.mark.parametrize("num_queries", [None, 7])
@pytest.mark.parametrize("mode", ["exact", "greedy_path", "free_greedy_path"])
def test_the_batch_size_changes_nothing(mode: str, num_queries: int | None, model: MistralForCausalLM) -> None:
    dataset = encoded(make_rows())
    chosen = {"mode": mode, "num_queries": num_queries}
    one, *others = [evaluator(dataset, batch_size=size, **chosen)(model) for size in (1, 3, 8)]
    for other in others:
        assert other.metrics == pytest.approx(one.metrics, rel=1e-4)
        assert [row.query_id for row in other.rows] == [row.query_id for row in one.rows]
        for row, expected in zip(other.rows, one.rows, strict=True):
            np.testing.assert_allclose(row.scores, expected.scores, atol=5e-6)


def ids(result: Evaluation) -> list[str]:
    return [row.query_id for row in result.rows]


def test_batches_are_of_like_length_within_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two batches each: every query is in one of them, and the longer prompts come first."""
    monkeypatch.setattr(evaluating, "WINDOW", 2)
    dataset = encoded(make_rows())
    batches = list(evaluator(dataset, batch_size=3).batches(list(range(11))))
    assert [len(chosen) for chosen, _, _ in batches] == [3, 3, 3, 2]
    for first in (0, 2):
        pair = [index for chosen, _, _ in batches[first : first + 2] for index in chosen]
        assert sorted(pair) == list(range(3 * first, min(3 * first + 6, 11)))
        lengths = [len(dataset[index].prompt_ids) for index in pair]
        assert lengths == sorted(lengths, reverse=True)
        assert len(set(lengths)) > 1
    for chosen, queries, packed in batches:
        assert packed.query_ids == tuple(f"q{index}" for index in chosen) == tuple(q.query_id for q in queries)


def test_batches_made_in_a_thread_are_scored_alike(model: MistralForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, names = encoded(make_rows()), []
    alone = evaluator(dataset, batch_size=2)(model)
    pack = TrieTargetCollator.pack
    monkeypatch.setattr(evaluating, "works_beside", lambda device: True)
    monkeypatch.setattr(
        TrieTargetCollator, "pack", lambda *given: names.append(threading.current_thread().name) or pack(*given)
    )
    assert evaluator(dataset, batch_size=2)(model) == alone
    assert all(name.startswith("ahead") for name in names)
    assert len(names) == 11


def test_a_sample_is_the_same_every_time_and_in_the_splits_order(model: MistralForCausalLM) -> None:
    dataset = encoded(make_rows())
    sample = ids(evaluator(dataset, num_queries=5)(model))
    assert len(set(sample)) == 5
    assert sample == sorted(sample, key=lambda name: int(name[1:]))
    random.seed(99)
    assert ids(evaluator(dataset, num_queries=5, batch_size=2)(model)) == sample
    everything = ids(evaluator(dataset)(model))
    assert everything == [f"q{i}" for i in range(11)]
    assert ids(evaluator(dataset, num_queries=11)(model)) == everything
    assert ids(evaluator(dataset, num_queries=500)(model)) == everything
    samples = {tuple(ids(evaluator(dataset, num_queries=n)(model))) for n in (3, 4, 6, 8)}
    assert any(sample != tuple(everything[: len(sample)]) for sample in samples), "not the split's first ones"


def test_what_a_row_and_the_metrics_hold(model: MistralForCausalLM) -> None:
    result = evaluator(encoded([*make_rows(3), RankingRow("q9", "d", (Doc("a"), Doc("b c")))]))(model)
    metrics, rows, last = result.metrics, result.rows, result.rows[-1]
    assert list(metrics) == [
        *("num_queries", "dropped_docs", "cvr", "ndcg"),
        *("recall@1", "recall@2", "recall@5", "valid_mass", "free_run_ndcg", "invalid_rate", "near_ties"),
    ]
    assert [row.query_id for row in rows] == ["q0", "q1", "q2", "q9"]
    assert (last.docids, last.ranks, last.num_negatives, last.dropped_docs) == (["a", "b c"], [1, 2], 0, 0)
    assert last.docid_tokens == [2, 3], "the terminator counts"
    assert len(last.scores) == 2
    assert all(score < 0 for row in rows for score in row.scores), "nats"
    assert "cvr" not in last.metrics
    assert metrics["cvr"] == np.mean([row.metrics["cvr"] for row in rows[:3]]), "over the queries that have a negative"
    assert metrics["ndcg"] == pytest.approx(np.mean([row.metrics["ndcg"] for row in rows]))
    assert list(rows[0].to_json()) == [
        *("query_id", "mode", "cvr", "ndcg", "recall@1", "recall@2", "recall@5"),
        *("docids", "ranks", "scores", "docid_tokens", "num_negatives", "dropped_docs", "near_ties"),
        *("valid_mass", "valid_mass_by_step", "free_run_ndcg", "invalid_rate"),
    ]
    assert set(last.to_json()) == {
        *("query_id", "mode", "docids", "ranks", "scores", "docid_tokens", "num_negatives", "dropped_docs"),
        *("ndcg", "recall@1", "recall@2", "recall@5", "near_ties", "valid_mass", "valid_mass_by_step"),
        *("free_run_ndcg", "invalid_rate"),
    }


def test_without_negatives_there_is_no_cvr(model: MistralForCausalLM) -> None:
    result = evaluator(encoded(make_rows(3, negatives=0)))(model)
    assert "cvr" not in result.metrics
    assert result.metrics["num_queries"] == 3


def test_dropped_documents_are_counted(model: MistralForCausalLM) -> None:
    """`<s> d : a | b | c :` has 9 tokens, 7 with two documents, and a docID 2."""
    row = RankingRow("q0", "d", (Doc("a"), Doc("b"), Doc("c")), (Doc("e"),))
    result = evaluator(encoded([row, row], max_length=9))(model)
    assert result.metrics["dropped_docs"] == 2
    assert result.rows[0].docids == ["a", "b", "e"]
    assert evaluator(encoded([row, row], max_length=11))(model).metrics["dropped_docs"] == 0


def test_dropout_is_off_meanwhile_and_the_mode_comes_back() -> None:
    dataset = encoded(make_rows(3))
    model = tiny_model(attention_dropout=0.5)
    reference = evaluator(dataset)(model.eval())
    assert not model.training
    again = evaluator(dataset)(model.train())
    assert model.training
    for row, expected in zip(again.rows, reference.rows, strict=True):
        assert row.scores == expected.scores


def test_nothing_of_the_model_is_changed(model: MistralForCausalLM) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluator(encoded(make_rows(3)))(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_broken_weights_are_told_with_the_query() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[VOCAB - 1] = float("nan")
    with pytest.raises(ValueError, match="query 'q0': the model's scores are not finite; its weights are broken"):
        evaluator(encoded(make_rows(2)))(model)


def test_graded_documents_share_their_gain(model: MistralForCausalLM) -> None:
    """Ranks 1, 1, 3 of three documents have the gains log 4, log 4, log 2."""
    docs = (Doc("a", rank=1), Doc("b c", rank=1), Doc("c", rank=3))
    row = evaluator(encoded([RankingRow("q0", "d", docs)]))(model).rows[0]
    assert row.ranks == [1, 1, 3]
    best_first = sorted(range(3), key=lambda i: -row.scores[i])
    gains, discounts = [math.log(4), math.log(4), math.log(2)], [1, 1 / math.log2(3), 1 / 2]
    found = sum(gains[doc] * discount for doc, discount in zip(best_first, discounts, strict=True))
    best = sum(gain * discount for gain, discount in zip(gains, discounts, strict=True))
    assert row.metrics["ndcg"] == pytest.approx(found / best)
    assert best_first[-1] != 2, "or any order would do"


@pytest.mark.parametrize("num_beams", [1, 2, 20])
def test_free_run_ndcg_is_that_of_beam_searchs_ranking(num_beams: int, model: MistralForCausalLM) -> None:
    """What it finds, then what it does not, the least relevant first: negatives too take part."""
    dataset = encoded(make_rows(8))
    result = evaluator(dataset, num_beams=num_beams)(model)
    for index, row in enumerate(result.rows):
        query = dataset[index]
        trie = DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted)
        found = [hypothesis.doc for hypothesis in beam_search(model, query.prompt_ids, trie, num_beams)]
        order = found + [doc for doc in reversed(range(len(query.docids))) if doc not in found]
        gains = gold_gains(np.array(query.ranks), query.num_negatives)
        best = sorted(gains, reverse=True)
        dcg, ideal = (
            sum(gain / math.log2(place + 2) for place, gain in enumerate(own)) for own in (gains[order], best)
        )
        assert row.metrics["free_run_ndcg"] == pytest.approx(dcg / ideal)
    same = result.metrics["free_run_ndcg"] == pytest.approx(result.metrics["ndcg"])
    assert same == (num_beams == 20), "with room for everything, beam search is exact"


def test_a_greedy_decode_that_is_a_docid_is_valid() -> None:
    dataset = encoded([RankingRow("q0", "d", (Doc("a"), Doc("b"))), RankingRow("q1", "d", (Doc("b"), Doc("c c")))])
    assert evaluator(dataset)(always(["a", "</s>"])).metrics["invalid_rate"] == 0.5
    assert evaluator(dataset)(always(["b", "</s>"])).metrics["invalid_rate"] == 0
    assert [row.metrics["invalid_rate"] for row in evaluator(dataset)(always(["d", "</s>"])).rows] == [1, 1]


def always(words: list[str]) -> MistralForCausalLM:
    """A model of no layers: after `words[i]` comes `words[i + 1]`, and `words[0]` after any other."""
    ids = [WORDS.index(word) for word in words]
    model = tiny_model(hidden_size=VOCAB, head_dim=8, num_hidden_layers=0).eval()
    follows = torch.full((VOCAB,), ids[0])
    follows[ids[:-1]] = torch.tensor(ids[1:])
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCAB))
        model.lm_head.weight.copy_(torch.eye(VOCAB)[follows].T)
    return model


def test_diagnostics_are_each_querys_own_whatever_the_batch(model: MistralForCausalLM) -> None:
    dataset = encoded(make_rows(7))
    assert "diagnostics" not in evaluator(dataset)(model).rows[0].to_json()
    one, four = (evaluator(dataset, batch_size=size, diagnostics=True)(model) for size in (1, 4))
    for index, (row, other) in enumerate(zip(one.rows, four.rows, strict=True)):
        query = dataset[index]
        longest = max(map(len, query.docid_ids[: len(query.docids) - query.num_negatives]))
        for name, sums in row.diagnostics.items():
            assert set(sums) == {"prefixes", "kl", "valid", "distance"}
            for key, values in sums.items():
                assert len(values) == longest
                assert other.diagnostics[name][key] == pytest.approx(values, rel=1e-4, abs=1e-7)
        left = row.diagnostics["unconstrained"]
        assert sum(left["prefixes"]) - sum(left["valid"]) == pytest.approx(1 - row.metrics["valid_mass"], abs=1e-6)
