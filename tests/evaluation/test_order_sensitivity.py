"""evaluation/order_sensitivity.py: flips by loops over pairs, and the shuffles that were evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from stoical.data.rows import Doc, RankingRow
from stoical.evaluation.order_sensitivity import flip_rates, order_sensitivity, shuffled_evaluations
from stoical.evaluation.result import QueryResult
from tests.support.small_evaluation import encoded, evaluator, make_rows
from tests.support.small_rows import make_evaluation, result
from tests.support.tiny_model import tiny_model

Cli = Callable[..., tuple[int, str, str]]


def shuffles_of(random: np.random.Generator, docs: int, count: int) -> list[QueryResult]:
    """Few scores, so that some tie."""
    names = [f"d{place}" for place in range(docs)]
    rows = []
    for _ in range(count):
        scores = random.choice([-1.0, -2.0, -3.0, -4.0, -5.5], size=docs).tolist()
        rows.append(result(docids=names, scores=scores, ranks=[*range(1, docs + 1)]))
    return rows


def test_flip_rates_are_those_of_loops() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        rows = shuffles_of(random, int(random.integers(2, 7)), int(random.integers(2, 6)))
        flips, firsts = [], []
        for one, two in combinations(rows, 2):
            for a, b in combinations(range(len(one.docids)), 2):
                flips.append(np.sign(one.scores[a] - one.scores[b]) != np.sign(two.scores[a] - two.scores[b]))
            firsts.append(int(np.argmax(one.scores)) != int(np.argmax(two.scores)))
        assert flip_rates(rows) == pytest.approx({"flip_rate": np.mean(flips), "first_flip_rate": np.mean(firsts)})


def test_flips_by_hand() -> None:
    """Of three shuffles one swaps the first two of three documents: 1 pair of 3, in 2 pairs of shuffles of 3."""
    row = result(docids=["a", "b", "c"], scores=[-1.0, -2.0, -3.0], ranks=[1, 2, 3])
    swapped = replace(row, docids=["b", "a", "c"])
    assert flip_rates([row, swapped, row]) == pytest.approx({"flip_rate": 2 / 9, "first_flip_rate": 2 / 3})
    assert flip_rates([row, row]) == {"flip_rate": 0, "first_flip_rate": 0}


def test_only_documents_that_all_shuffles_have_are_compared() -> None:
    row = result(docids=["a", "b", "c"], scores=[-1.0, -2.0, -3.0], ranks=[1, 2, 3])
    cut = result(docids=["b", "a"], scores=[-1.0, -2.0], ranks=[1, 2])
    assert flip_rates([row, cut]) == {"flip_rate": 1, "first_flip_rate": 1}
    assert flip_rates([row, result(docids=["b"], scores=[-1.0], ranks=[1])]) == {}


def test_spreads_are_over_the_shuffles() -> None:
    runs = [make_evaluation(seed=seed) for seed in range(4)]
    found = order_sensitivity(runs)
    values = [run.metrics["ndcg"] for run in runs]
    expected = {"mean": np.mean(values), "std": np.std(values, ddof=1), "min": min(values), "max": max(values)}
    assert found["metrics"]["ndcg"].pop("values") == values
    assert found["metrics"]["ndcg"] == pytest.approx(expected)
    assert (found["shuffles"], found["num_queries"]) == (4, 40)
    low, high = found["intervals"]["flip_rate"]
    assert 0 < low < found["flip_rate"] < high < 1
    json.dumps(found, allow_nan=False)


def test_each_shuffle_is_another_epochs() -> None:
    model, dataset = tiny_model().eval(), encoded(make_rows())
    made = evaluator(dataset, calibration=True)
    others = shuffled_evaluations(made, model, 3, shown=False)
    assert dataset.epoch == 0, "as it was"
    for epoch, other in enumerate(others, 1):
        dataset.set_epoch(epoch)
        expected = made(model)
        assert [row.scores for row in other.rows] == [row.scores for row in expected.rows]
        assert all(row.logprobs is None for row in other.rows)
    assert [row.scores for row in others[0].rows] != [row.scores for row in others[1].rows]
    assert shuffled_evaluations(made, model, 1, shown=False) == []


def test_a_model_that_reads_no_order_flips_nothing() -> None:
    """Lists of one document: their prompts are the same in every shuffle."""
    rows = [RankingRow(f"q{i}", "d e", (Doc("a b"),), (Doc("c"),)) for i in range(3)]
    model, made = tiny_model().eval(), evaluator(encoded(rows))
    found = order_sensitivity([made(model), *shuffled_evaluations(made, model, 3, shown=False)])
    assert (found["flip_rate"], found["metrics"]["ndcg"]["std"]) == (0, 0)


def test_the_file_of_an_evaluation(trained: Path, cli: Cli, tmp_path: Path) -> None:
    words = [f"checkpoint={trained}", f"output={tmp_path / 'eval'}"]
    assert cli("evaluate", *words, "eval.shuffles=3")[0] == 0
    found = json.loads((tmp_path / "eval" / "order_sensitivity.json").read_text())
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert found["shuffles"] == 3
    assert found["metrics"]["ndcg"]["values"][0] == metrics["ndcg"], "the first is the evaluation itself"
    summary = (tmp_path / "eval" / "summary.md").read_text()
    assert f"over 3 shuffles: nDCG {100 * found['metrics']['ndcg']['mean']:.2f}%" in summary
    assert cli("evaluate", *words)[0] == 0
    assert not (tmp_path / "eval" / "order_sensitivity.json").exists()


def test_what_is_refused(trained: Path, cli: Cli, tmp_path: Path) -> None:
    words = [f"checkpoint={trained}", f"output={tmp_path / 'eval'}"]
    status, _, err = cli("evaluate", *words, "eval.shuffles=0")
    assert (status, err.strip()) == (2, "error: eval.shuffles=0 must be at least 1")
    status, _, err = cli("evaluate", *words, "eval.shuffles=2", "prompt.template=plain")
    assert status == 2
    assert "eval.shuffles=2 has no effect: the prompt lists no documents; drop it" in err
