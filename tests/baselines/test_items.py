"""baselines/items.py: the items of a dataset, its pairs with their weights, and the batches of an epoch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from stoical.baselines.items import Items, Pairs, shuffle
from stoical.data.dataset import RankingDataset, load_split
from stoical.trie.node_weights import TargetSettings

ROWS = [
    {"query_id": "1", "query": "deer", "docs": [{"docid": "ruminant"}, {"docid": "mammal"}, {"docid": "animal"}]},
    {"query_id": "2", "query": "ruminant", "docs": [{"docid": "mammal", "rank": 1}, {"docid": "animal", "rank": 1}]},
]
TEST = [{"query_id": "3", "query": "cow", "docs": [{"docid": "ruminant"}], "negatives": [{"docid": "oak"}]}]


@pytest.fixture
def splits(tmp_path: Path) -> list[RankingDataset]:
    for name, rows in (("train", ROWS), ("test", TEST)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [load_split(tmp_path, name) for name in ("train", "test")]


def test_queries_documents_and_negatives_share_one_table(splits: list[RankingDataset], tmp_path: Path) -> None:
    items = Items.of(splits)
    assert items.names == ["animal", "cow", "deer", "mammal", "oak", "ruminant"]
    items.save(tmp_path)
    assert Items.load(tmp_path).places(["oak", "cow"]).tolist() == [4, 1]


def test_pairs_have_the_weight_of_their_rank(splits: list[RankingDataset]) -> None:
    items = Items.of(splits)
    pairs = Pairs.of(splits[0], items, TargetSettings(item="fractional", alpha=2))
    names = [(items.names[q], items.names[d]) for q, d in zip(pairs.query, pairs.doc, strict=True)]
    deer = [("deer", "ruminant"), ("deer", "mammal"), ("deer", "animal")]
    assert names == [*deer, ("ruminant", "mammal"), ("ruminant", "animal")]
    assert pairs.weight.tolist() == pytest.approx([1, 1 / 4, 1 / 9, 1, 1])
    stepwise = Pairs.of(splits[0], items, TargetSettings(item="stepwise"))
    assert stepwise.weight.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1, 1])


def test_weights_of_queries_and_documents_multiply_lambda(tmp_path: Path) -> None:
    docs = [{"docid": "a", "weight": 0.5}, {"docid": "b"}]
    rows = [{"query_id": "1", "query": "q", "docs": docs, "weight": 3.0}, {"query_id": "2", "query": "r", "docs": docs}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = load_split(tmp_path, "train")
    pairs = Pairs.of(split, Items.of([split]), TargetSettings(item="fractional", alpha=1))
    assert pairs.weight.tolist() == pytest.approx([0.5 * 3, 3 / 2, 0.5, 1 / 2])


def test_an_epoch_has_every_pair_once_but_for_those_that_fill_no_batch(splits: list[RankingDataset]) -> None:
    pairs = Pairs.of(splits[0], Items.of(splits), TargetSettings())
    for epoch in range(3):
        seen = Counter[tuple[int, int]]()
        for step in range(2 * epoch, 2 * epoch + 2):
            query, doc, _ = pairs.batch(2, step, seed=0)
            seen.update(zip(query.tolist(), doc.tolist(), strict=True))
        assert len(seen) == 4 and set(seen.values()) == {1}
    assert not shuffle(50, 0, 0).equal(shuffle(50, 0, 1)), "another order every epoch"
    assert not shuffle(50, 0, 1).equal(shuffle(50, 1, 1)), "and every seed"


def test_a_batch_that_the_pairs_do_not_fill_is_refused(splits: list[RankingDataset]) -> None:
    pairs = Pairs.of(splits[0], Items.of(splits), TargetSettings())
    with pytest.raises(ValueError, match="global_batch_size=6: the training split has 5 pairs, fewer than one batch"):
        pairs.batch(6, 0, seed=0)


def test_items_without_a_row_are_named(splits: list[RankingDataset]) -> None:
    with pytest.raises(ValueError, match=r"no row for 2 of its items \(cow, oak\)"):
        Items.of(splits[:1]).check_known(splits[1], range(1))
