"""What `import stoical` offers: every name is there, is loaded when it is used, and does what a run's own parts do."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import stoical
from stoical.build.encoder import build_encoder
from stoical.data.rows import parse_row
from stoical.training.build import build_trainer
from tests.support.root import ROOT
from tests.support.tiny_recipe import tiny_recipe

HOME = stoical._HOME


@pytest.mark.parametrize("name", HOME)
def test_every_name_is_what_its_module_defines(name: str) -> None:
    found = getattr(stoical, name)
    assert found is getattr(importlib.import_module(HOME[name]), name)
    assert found.__module__ == HOME[name], "imported from where it is defined"
    words = "\n".join(inspect.getdoc(each) or "" for each in (found, getattr(found, "of", None)))
    assert re.search(rf"^    .*\b{name}\b", words, re.MULTILINE), "its docstring shows how it is used"


def test_the_lists_of_names_agree() -> None:
    """What is exported, where it is from, and what a type checker is told."""
    assert set(stoical.__all__) == {*HOME, "__version__"} == set(dir(stoical))
    tree = ast.parse((ROOT / "stoical" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert told == HOME


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'stoical' has no attribute 'rnak'"):
        stoical.rnak  # noqa: B018


def test_names_are_not_hidden_by_rooms() -> None:
    for room in ("training", "evaluation", "ranker", "evaluating"):
        importlib.import_module(f"stoical.{room}")
    assert callable(stoical.train) and callable(stoical.evaluate) and callable(stoical.Ranker)


def test_a_row_of_docids_is_the_row_of_a_file() -> None:
    raw = {
        "query_id": "deer",
        "query": "deer",
        "docs": [{"docid": "ruminant"}, {"docid": "mammal"}],
        "negatives": [{"docid": "solarization"}],
    }
    row = stoical.RankingRow.of("deer", ["ruminant", "mammal"], negatives=["solarization"])
    assert row == parse_row(raw, "here")
    assert stoical.RankingRow.of("deer", ["ruminant"], query_id="q1").query_id == "q1"
    with pytest.raises(ValueError, match="query 'deer': the docid 'mammal' occurs twice"):
        stoical.RankingRow.of("deer", ["mammal", "mammal"])
    for no_list in (None, 5, "mammal", {"docid": "mammal"}):
        with pytest.raises(ValueError, match="query 'deer': the documents must be a list of docIDs"):
            stoical.RankingRow.of("deer", no_list)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ([], {"template": "compact", "max_length": 512}),
        (["prompt.template=wordnet", "seed=3"], {"template": "wordnet", "max_length": 512, "seed": 3}),
        (["tokenizer.count_terminator=false"], {"max_length": 512, "count_terminator": False}),
        (["tokenizer.terminator=none", "prompt.max_length=60"], {"max_length": 60, "terminator": "none"}),
    ],
)
def test_an_encoder_of_ones_own_is_that_of_a_recipe(words: list[str], own: dict[str, Any], tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, *words)
    rows = stoical.load_split(recipe.data.path, "test")
    tokenizer = stoical.encoding.tokenization.train_bpe(["query ba do ki lu me no ra su"], 300)
    encoder, theirs = stoical.QueryEncoder.of(tokenizer, **own), build_encoder(recipe, tokenizer)
    for row in rows:
        for epoch in (0, 1):
            assert encoder.encode(row, epoch, negatives=True) == theirs.encode(row, epoch, negatives=True)


@pytest.mark.parametrize("normalizer", ["queries", "points", "weights"])
@pytest.mark.parametrize("recipe", ["wordnet_alpha2", "wordnet_beta2"])
def test_the_loss_of_a_batch_is_the_trainers(normalizer: str, recipe: str, tmp_path: Path) -> None:
    """Its value and its gradient; each docs/library.md's and `transformers.Trainer`'s users get by themselves."""
    trainer = build_trainer(tiny_recipe(tmp_path, f"loss.normalizer={normalizer}", recipe=recipe))
    inputs = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    count = trainer._get_num_items_in_batch([inputs], torch.device("cpu"))
    model = trainer.model
    expected = trainer.compute_loss(model, inputs, num_items_in_batch=count)
    own = stoical.SToICaLLoss(trainer.objectives["loss"].settings, normalizer=normalizer).mean(model, inputs["batch"])
    assert own.item() == pytest.approx(expected.item(), rel=1e-6)
    wanted, found = (torch.autograd.grad(loss, list(model.parameters())) for loss in (expected, own))
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-8) for one, other in zip(wanted, found, strict=True))
    assert any(one.abs().max() > 1e-3 for one in wanted)
