"""examples/esci_small.py and its overlay: the arithmetic by hand, and a run on the slice of ESCI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.esci_small import baseline, input_tokens, mean_places, top_counts
from stoical.data.dataset import load_split
from tests.support.commands import run
from tests.support.esci_tables import SLICE

LISTS = [["a", "b", "c"], ["a", "c", "d"], ["b", "a"]]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    rows = [
        {"query_id": f"q{place}", "query": "usb c", "docs": [{"docid": f"[{docid},1]"} for docid in docids]}
        for place, docids in enumerate(LISTS)
    ]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def test_the_baselines_by_hand(lists: Path) -> None:
    rows = load_split(str(lists), "train")
    assert dict(top_counts(rows)) == {"[a,1]": 2, "[b,1]": 1}
    places = mean_places(rows)
    assert places["[a,1]"] == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert places["[b,1]"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert places["[c,1]"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    found = baseline(rows, dict.fromkeys(places, 0.0) | {"[a,1]": 2.0, "[b,1]": 1.0}, [1, 2], seed=0)
    assert found["recall@1"] == pytest.approx(2 / 3)


def test_input_tokens_are_the_prompts_and_the_nodes_that_are_read(lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 4 queries: an epoch is one step of 3. With every token whole, `[a,1]` is one read node, and one leaf."""
    from stoical.config import loading as config

    monkeypatch.setattr(
        "examples.esci_small.load_recipe", lambda names: config.load_recipe(names, f"data.path={lists}")
    )
    ntp, every = (input_tokens(f"recipe=esci_{name},small,esci_small", 5) for name in ("ntp", "every_node"))
    rows = load_split(str(lists), "train")
    assert every - ntp == 5 * sum(len(rows[place].docs) - 1 for place in range(3))


def test_esci_small_trains_and_is_evaluated_on_esci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data, output = tmp_path / "data", tmp_path / "run"
    lists = ("rank_end=300", "rank_step=10", "dimensions=32", "components=20", "alpha=0.2", "test_size=20")
    assert run("prepare", "esci", f"source={SLICE}", f"out={data}", "collisions=disambiguate", *lists) == 0
    settings = (f"data.path={data}", "training.max_steps=2", "training.eval_steps=10", "training.use_cpu=true")
    assert run("train", "recipe=esci_every_node,small,esci_small", f"output={output}", *settings) == 0
    assert run("evaluate", f"checkpoint={output}") == 0
    metrics = json.loads((output / "eval" / "metrics.json").read_text())
    assert metrics["num_queries"] == 20
    assert (metrics["terminator"], metrics["dropped_docs"]) == ("none", 0)
    assert {f"recall@{k}" for k in (1, 2, 5, 10, 25, 50)} <= metrics.keys()
    assert 0.5 < metrics["ndcg"] <= 1
