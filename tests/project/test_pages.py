"""The pages of docs/ that name code: every name resolves, and the worked examples of docs/extending.md are true."""

from __future__ import annotations

import math
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import stoical
from stoical.commands.prepare import MAKERS
from stoical.data.dataset import load_split
from stoical.encoding.packed_batch import PackedBatch
from stoical.evaluation import metrics
from stoical.trie.node_weights import TargetSettings
from tests.support.root import ROOT


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def block_with(text: str) -> str:
    return next(block for block in blocks("extending.md", "python") if text in block)


def test_the_python_of_the_library_page_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks("library.md", "python")
    assert len(found) >= 5
    torch.manual_seed(0)  # the page trains for some steps from random weights, and prints what they rank first
    exec(compile("\n".join(found), "docs/library.md", "exec"), {})
    assert "ruminant" in capsys.readouterr().out


def test_the_library_page_names_what_the_package_exports() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    names = set(stoical.__all__) - {"__version__"}
    assert {name for name in names if not re.search(rf"`[^`]*\b{name}\b", page)} == set()


def test_the_fields_of_a_batch_that_the_library_page_names_are_there() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    table = page.partition("## What a batch is")[2].partition("## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named >= {"input_ids", "node_up", "doc_rank"}
    assert named - set(dir(PackedBatch)) == set()


def test_the_worked_mitigation_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("brier")
    monkeypatch.setitem(sys.modules, "brier", module)  # where dataclasses look for a class's module
    exec(compile(block_with("class BrierSettings"), "docs/extending.md", "exec"), module.__dict__)
    objective = module.BrierSettings(weight=0.5).build(TargetSettings(), "mean")
    weights, logprobs = [1.0, 0.5, 0.0], [-0.1, -2.0, -1.0]
    batch = SimpleNamespace(node_weights=torch.tensor(weights), query_ids=("a", "b"))
    found = objective(SimpleNamespace(batch=batch, node_logprobs=torch.tensor(logprobs)))
    term = sum(weight * (1 - math.exp(logprob)) ** 2 for weight, logprob in zip(weights, logprobs, strict=True))
    assert found.loss_sum.item() == pytest.approx(0.5 * term)
    assert found.logs == {"brier": pytest.approx(term / 2)}


def test_the_worked_metric_is_one() -> None:
    code = block_with("_first_rank").partition("METRICS")[0]
    names = dict(vars(metrics))
    exec(compile(code, "docs/extending.md", "exec"), names)
    query = metrics.JudgedQuery(np.array([-2.0, -4.0, -3.0, -1.0]), np.array([1, 1, 3, 5]), num_negatives=1)
    metric = metrics.Metric("first_rank", "rank of the first", names["_first_rank"], "lower", shown=("tables",))
    assert metric.compute(query) == 5
    assert metric.column == "rank of the first (↓)"


def test_the_worked_dataset_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("data_prep.importers.ordered")
    module.__package__ = "data_prep.importers"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block_with("class OrderedOptions"), "docs/extending.md", "exec"), module.__dict__)
    (tmp_path / "lists.csv").write_text("deer,ruminant,mammal\noak,tree,plant,\nbee,insect\n", encoding="utf-8")
    module.build(module.OrderedOptions(str(tmp_path / "lists.csv"), str(tmp_path / "out")))
    train = load_split(str(tmp_path / "out"), "train")
    assert [[doc.docid for doc in row.docs] for row in train] == [["ruminant", "mammal"], ["tree", "plant"]]
    assert "ordered" not in MAKERS
