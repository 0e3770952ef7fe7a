"""The three ways into the library, as examples/ shows them: short, offline, and right about what they print."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.wordnet import hypernyms
from tests.support.root import ROOT

EXAMPLES = ["own_loop", "own_trainer", "from_recipe"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def own_trainer(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The example's names, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.chdir(tmp_path_factory.mktemp("own_trainer")):
        example = runpy.run_module("examples.own_trainer")
    return example, printed.getvalue()


@pytest.mark.parametrize("name", EXAMPLES)
def test_they_are_short_and_say_how_they_are_run(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert f"`python -m examples.{name}`" in text


def test_a_loop_of_ones_own_learns_to_rank_lists_that_it_has_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("examples.own_loop")
    printed = capsys.readouterr().out
    losses = [float(found) for found in re.findall(r"loss (\S+) nats", printed)]
    assert losses == sorted(losses, reverse=True)
    right = re.search(r"^(\d+) of 100 lists", printed, flags=re.MULTILINE)
    assert right and int(right[1]) >= 50


def test_a_plain_trainer_learns_its_lists(own_trainer: tuple[dict[str, Any], str]) -> None:
    example, printed = own_trainer
    losses = [float(found) for found in re.findall(r"'loss': '?([\d.]+)", printed)]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    for query, docs in example["LISTS"].items():
        line = next(line for line in printed.splitlines() if line.startswith(f"{query} "))
        assert re.findall(r"\('(\w+)'", line) == docs.split()


def test_its_trainer_divides_by_the_accumulation_steps(own_trainer: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    """Two micro-batches that are equal give the gradient of one, whatever the model's forward takes."""
    example, _ = own_trainer
    rows, encoder, trainer_class = example["rows"], example["encoder"], example["RankingTrainer"]
    state = {name: value.clone() for name, value in example["model"].state_dict().items()}
    weights = []
    for accumulated in (1, 2):
        model = type(example["model"])(example["model"].config)
        model.load_state_dict(state)
        arguments = example["TrainingArguments"](
            str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=accumulated,
            max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0, save_strategy="no", report_to="none",
        )  # fmt: skip
        dataset = example["stoical"].EncodedDataset([rows[0]] * accumulated, encoder)
        trainer_class(model, arguments, data_collator=example["collator"], train_dataset=dataset).train()
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value)
    assert any((weights[0][name] - value).abs().max() > 0 for name, value in state.items())


def test_a_recipe_from_python(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Also a second time, when there is nothing left to train."""
    hypernyms.build(hypernyms.WordNetOptions(out="data/mammal", subtree="carnivore.n.01", test_size=8))
    example = runpy.run_module("examples.from_recipe")
    for _ in range(2):
        example["main"](steps=2, output="runs/tiny")
        printed = capsys.readouterr().out
        assert re.search(r"^cvr [\d.]+%, ndcg [\d.]+%, recall@1 [\d.]+%, recall@5 [\d.]+%$", printed, re.MULTILINE)
        ranked = re.findall(r"^(\d) (\S+) (-[\d.]+)$", printed, re.MULTILINE)
        assert [rank for rank, _, _ in ranked] == ["1", "2", "3", "4"]
        scores = [float(score) for _, _, score in ranked]
        assert scores == sorted(scores, reverse=True)
    assert "has done all 2 steps" in printed
