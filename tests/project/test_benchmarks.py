"""`make bench`: every benchmark takes the words that it is given, and the head's and serving's run at a tiny size."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as every
from benchmarks import flat, head, serving
from stoical import ranker
from stoical.encoding.packed_batch import PackedBatch
from stoical.evaluation import evaluator
from stoical.trie.node_weights import TargetSettings
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries
from tests.support.small_data import TINY, write_dataset
from tests.support.tiny_model import tiny_model


@pytest.mark.parametrize("name", every.SIZES)
def test_every_benchmark_takes_its_words(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, seen = importlib.import_module(f"benchmarks.{name}"), []
    monkeypatch.setattr(module, "run", seen.append)
    monkeypatch.setattr("sys.argv", [name, *every.SIZES[name], f"out={tmp_path / name}"])
    assert module.main() == 0
    assert [options.out for options in seen] == [str(tmp_path / name)]


def test_one_that_does_not_exist_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "only=heads"])
    assert every.main() == 2
    assert "error: only: 'heads' is none of forward, flat, head" in capsys.readouterr().err


def test_the_rectangle_that_flat_rows_are_timed_against_gives_the_same() -> None:
    model, batch = tiny_model(), pack(ragged_queries(), TargetSettings(item="fractional", alpha=2.0))
    found = {name: way(model, batch) for name, way in flat.WAYS.items()}
    torch.testing.assert_close(found["flat"], found["rectangle"], atol=5e-6, rtol=0)


@pytest.mark.slow
def test_one_that_fails_ends_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(every.SIZES, "head", ("sizes=7",))
    monkeypatch.setattr("sys.argv", ["benchmarks", "only=head,omp", f"out={tmp_path}"])
    assert every.main() == 2
    assert capfd.readouterr().err.splitlines() == [
        "error: sizes: '7' is not of the form 64x150000 (a multiple of 64 x vocabulary)",
        "error: python -m benchmarks.head sizes=7 ended with status 2",
    ]


@pytest.mark.slow
def test_the_head_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["sizes=64x60000", "queries=8", "prompt=12", "docs=20", "budget=0", f"out={tmp_path / 'head'}"]
    monkeypatch.setattr("sys.argv", ["head", *words])
    assert head.main() == 0
    [result] = json.loads((tmp_path / "head.json").read_text())["results"]
    assert result["memory"]["chunks"]["training"] < 0.6 * result["memory"]["all"]["training"]
    assert result["differences"]["gradients"] < 1e-6
    assert "64x60000" in (tmp_path / "head.md").read_text()


def test_serving_is_compared_with_the_forward_passes_of_its_own_batches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "data", test=7)
    tiny = [word for word in TINY if word.startswith(("tokenizer.", "model."))]
    run = serving.checkpoint_of("wordnet_alpha2,small", str(tmp_path / "run"), str(tmp_path / "data"), *tiny)
    served = serving.Served.load(run, 7)
    assert set(serving.time_batches(served, 3, 0.0)) == {*serving.PASSES, "a batch", "first answer"}

    seen, forward = list[torch.Tensor](), evaluator.node_logprobs

    def watched(model: Any, batch: PackedBatch, *rest: Any, **more: Any) -> Any:
        seen.append(batch.input_ids)
        return forward(model, batch, *rest, **more)

    monkeypatch.setattr(evaluator, "node_logprobs", watched)
    monkeypatch.setattr(ranker, "node_logprobs", watched)
    replace(served.evaluator, batch_size=3)(served.ranker.model)
    list(serving.rank_lines(served.ranker, iter(map(serving.line_of, served.rows)), "lines", batch_size=3))
    timed = [*served.evaluated(3), *served.ranked(3)]
    assert len(seen) == 6
    assert all(torch.equal(ids, batch.input_ids) for ids, batch in zip(seen, timed, strict=True))
