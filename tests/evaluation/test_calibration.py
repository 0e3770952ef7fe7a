"""evaluation/calibration.py: targets against the trie, errors by hand and by loops, the temperature by a grid."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stoical.decoding.walks import path_sums
from stoical.evaluation.calibration import (
    Listed,
    bins,
    calibrate,
    calibration_error,
    cross_entropy,
    fit_temperature,
    measure,
    total_variation,
)
from stoical.evaluation.evaluator import Evaluator
from stoical.trie.node_weights import TargetSettings, doc_targets
from tests.support.packed import leaf_of, pack
from tests.support.random_queries import ragged_queries
from tests.support.small_evaluation import encoded, evaluator, make_rows, token_logprobs
from tests.support.small_rows import result
from tests.support.tiny_model import tiny_model

Cli = Callable[..., tuple[int, str, str]]
TARGETS = [
    TargetSettings(),
    TargetSettings(item="fractional", alpha=2.0),
    TargetSettings(item="stepwise"),
    TargetSettings(token="trie", beta=1.0),
    TargetSettings(item="fractional", alpha=2.0, token="trie", beta=3.0),
    TargetSettings(token="every_node", beta=2.0, visits="uniform"),
]


@pytest.mark.parametrize("settings", TARGETS, ids=str)
def test_the_target_over_docids_is_the_product_of_its_nodes(settings: TargetSettings) -> None:
    batch = pack(ragged_queries(), settings)
    products = path_sums(batch, batch.node_target.double().log())[leaf_of(batch)].exp()
    for query in range(len(batch.query_ids)):
        own = (batch.doc_query == query) & ~batch.doc_negative
        expected = doc_targets(batch.doc_rank[own].numpy(), settings)
        np.testing.assert_allclose(products[own], expected, rtol=1e-5, atol=1e-12)
        assert expected.sum() == pytest.approx(1)


def test_the_target_by_hand() -> None:
    ranks = np.array([1, 2, 2])
    np.testing.assert_allclose(doc_targets(ranks, TARGETS[1]), [4 / 6, 1 / 6, 1 / 6])
    np.testing.assert_allclose(doc_targets(np.array([1, 1, 3]), TARGETS[0]), [1 / 2, 1 / 2, 0])
    np.testing.assert_allclose(doc_targets(ranks, TARGETS[3]), [1 / 2, 1 / 4, 1 / 4])


def random_queries(count: int, seed: int = 0) -> list[Listed]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        docs = int(random.integers(1, 9))
        found.append(
            Listed(
                random.normal(-6, 3, size=docs),
                doc_targets(np.arange(1, docs + 1), TARGETS[1]),
                (np.arange(docs) == 0).astype(float),
            )
        )
    return found


def test_errors_are_those_of_loops() -> None:
    queries = random_queries(40)
    found = measure(queries, [1.7] * 40)
    pairs, tops, variation, entropy = [], [], 0.0, 0.0
    for query in queries:
        exps = [math.exp(value / 1.7) for value in query.logprobs]
        probabilities = [value / sum(exps) for value in exps]
        pairs += list(zip(probabilities, query.target, strict=True))
        best = max(range(len(exps)), key=lambda place, exps=exps: exps[place])
        tops.append((probabilities[best], 1.0 if best == 0 else 0.0))
        variation += 0.5 * sum(abs(p - q) for p, q in zip(probabilities, query.target, strict=True))
        entropy -= sum(q * math.log(p) for p, q in zip(probabilities, query.target, strict=True))

    def ece(points: list[tuple[float, float]]) -> float:
        total = 0.0
        for number in range(10):
            own = [point for point in points if min(int(point[0] * 10), 9) == number]
            if own:
                gap = sum(p for p, _ in own) / len(own) - sum(outcome for _, outcome in own) / len(own)
                total += len(own) / len(points) * abs(gap)
        return total

    assert found["ece"] == pytest.approx(ece(pairs))
    assert found["first_ece"] == pytest.approx(ece(tops))
    assert found["total_variation"] == pytest.approx(variation / 40)
    assert found["cross_entropy"] == pytest.approx(entropy / 40)
    assert 0.05 < found["ece"] < found["first_ece"] < 1
    assert sum(point["count"] for point in found["bins"]) == len(pairs)


def test_errors_by_hand() -> None:
    """Two documents at 0.9 and 0.1, of which 0.75 and 0.25 were right; 1.0 falls into the last bin."""
    found = bins(np.array([0.9, 0.1, 1.0]), np.array([0.75, 0.25, 1.0]))
    assert [(one.count, one.probability, one.outcome) for one in found] == [(1, 0.1, 0.25), (2, 0.95, 0.875)]
    assert calibration_error(found) == pytest.approx((0.15 + 2 * 0.075) / 3)
    assert total_variation(np.array([0.9, 0.1]), np.array([0.75, 0.25])) == pytest.approx(0.15)


def test_a_model_that_is_the_target_has_no_error() -> None:
    queries = [replace(query, logprobs=np.log(query.target) - 3) for query in random_queries(30)]
    found = measure(queries, [1.0] * 30)
    assert found["ece"] == pytest.approx(0, abs=1e-12)
    assert found["total_variation"] == pytest.approx(0, abs=1e-12)
    assert fit_temperature(queries) == pytest.approx(1, abs=1e-4)
    sharp = [replace(query, logprobs=3 * query.logprobs) for query in queries]
    assert fit_temperature(sharp) == pytest.approx(3, abs=1e-3)
    assert measure(sharp, [3.0] * 30)["ece"] == pytest.approx(0, abs=1e-9)
    assert measure(sharp, [1.0] * 30)["ece"] > 0.02


def test_the_temperature_is_the_best_of_a_grid() -> None:
    random = np.random.default_rng(3)
    queries = [
        replace(query, logprobs=2 * np.log(query.target) + random.normal(size=len(query.target)))
        for query in random_queries(25, seed=3)
    ]
    found = fit_temperature(queries)
    grid = np.exp(np.linspace(-6, 6, 601))
    best = grid[np.argmin([cross_entropy(queries, value) for value in grid])]
    assert found == pytest.approx(best, rel=0.03)
    assert 1 < found < 10
    assert cross_entropy(queries, found) <= min(cross_entropy(queries, value) for value in grid) + 1e-12
    assert fit_temperature(random_queries(1)[:0] or [Listed(np.array([-3.0]), np.ones(1), np.ones(1))]) == 1.0


def test_held_out_halves_use_the_other_halfs_temperature() -> None:
    queries = [q for q in random_queries(60, seed=4) if len(q.logprobs) > 1]
    rows = [
        result(
            query_id=f"q{place}",
            docids=[f"d{doc}" for doc in range(len(query.logprobs))],
            ranks=[*range(1, len(query.logprobs) + 1)],
            logprobs=query.logprobs.tolist(),
        )
        for place, query in enumerate(queries)
    ]
    found = calibrate(rows, TARGETS[1])
    even, odd = queries[0::2], queries[1::2]
    assert found["temperatures"] == pytest.approx([fit_temperature(odd), fit_temperature(even)])
    expected = [found["temperatures"][place % 2] for place in range(len(queries))]
    assert found["held_out"]["ece"] == measure(queries, expected)["ece"]
    assert found["held_out"]["cross_entropy"] < found["as_is"]["cross_entropy"]
    assert found["temperature"] == fit_temperature(queries)
    assert found["valid_mass"] == pytest.approx(np.mean([np.exp(query.logprobs).sum() for query in queries]))
    alone = calibrate(rows[:1], TARGETS[1])
    assert alone["held_out"] is alone["temperatures"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("count", [True, False])
def test_the_evaluator_gives_log_probabilities_of_documents(count: bool) -> None:
    model, plain = tiny_model().eval(), tiny_model("eager").eval()
    dataset = encoded(make_rows(7, negatives=2), count=count)
    found: Evaluator = evaluator(dataset, calibration=True)
    assert all(row.logprobs is None for row in replace(found, calibration=False)(model).rows)
    for index, row in enumerate(found(model).rows):
        query = dataset[index]
        listed = query.docid_ids[: query.num_listed]
        each = [token_logprobs(plain, list(query.prompt_ids), list(ids)) for ids in listed]
        expected = [sum(own[: len(own) - (not count)]) for own in each]
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)
        assert row.metrics["valid_mass"] == pytest.approx(sum(math.exp(value) for value in row.logprobs), rel=1e-4)
    assert torch.isfinite(torch.tensor(row.scores)).all()


@pytest.mark.paints
def test_the_files_of_a_calibration(trained: Path, cli: Cli, tmp_path: Path) -> None:
    words = [f"checkpoint={trained}", f"output={tmp_path / 'eval'}"]
    assert cli("evaluate", *words, "eval.calibration=true")[0] == 0
    found = json.loads((tmp_path / "eval" / "calibration.json").read_text())
    assert (found["num_queries"], found["target"]["alpha"]) == (6, 2.0)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert found["valid_mass"] == pytest.approx(metrics["valid_mass"], rel=1e-6)
    assert (tmp_path / "eval" / "reliability.png").stat().st_size > 10_000
    summary = (tmp_path / "eval" / "summary.md").read_text()
    assert f"expected calibration error {100 * found['as_is']['ece']:.2f}%" in summary
    assert f"Temperature fitted on all: {found['temperature']:.3g}." in summary
    assert "reliability.png" in summary
    assert cli("evaluate", *words)[0] == 0
    assert not (tmp_path / "eval" / "calibration.json").exists(), "not of this evaluation"
    status, _, err = cli("evaluate", *words, "eval.calibration=true", "eval.mode=greedy_path")
    assert status == 2
    assert "eval.calibration=true needs exact scores; drop eval.mode=greedy_path" in err
