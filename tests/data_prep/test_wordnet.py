"""data_prep/wordnet: the shipped graph, the paths and negatives on it, and the full dataset."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.wordnet import graph as wordnet_graph
from data_prep.wordnet.graph import NounGraph, bundled_graph, parse_graph
from data_prep.wordnet.hypernyms import (
    WordNetOptions,
    ancestors,
    choose_parents,
    climb,
    find_queries,
    make_splits,
    sample_negatives,
)
from stoical.common.files import file_sha256
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from tests.support.commands import run
from tests.support.root import ROOT

DEER = (
    "ruminant.n.01 even-toed_ungulate.n.01 ungulate.n.01 placental.n.01 mammal.n.01 vertebrate.n.01 "
    "chordate.n.01 animal.n.01 organism.n.01 living_thing.n.01 whole.n.02 object.n.01 physical_entity.n.01 "
    "entity.n.01"
)
"""The documents of the query deer in the SToICaL paper, section 5.1, with the suffixes of its section B.1."""

# m is below a and c, t below b and x, which are equally far from the root r
TOY = {"r": (), "a": ("r",), "x": ("a",), "b": ("a",), "c": ("b",)}
TOY |= {"m": ("a", "c"), "t": ("b", "x"), "n": ("m",)}


@pytest.fixture(scope="module")
def graph() -> NounGraph:
    return bundled_graph()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that the command makes with its defaults."""
    out = tmp_path_factory.mktemp("full") / "wordnet"
    assert run("prepare", "wordnet", f"out={out}") == 0
    return out


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# The graph


def test_the_shipped_graph_is_wordnet_3_with_one_root(graph: NounGraph) -> None:
    assert graph.version == "3.0"
    assert len(graph.parents) == 82_115
    assert [name for name, above in graph.parents.items() if not above] == ["entity.n.01"]
    assert {above for parents in graph.parents.values() for above in parents} <= graph.parents.keys()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in graph.licence


def test_the_shipped_file_is_small_and_holds_no_time() -> None:
    packed = (ROOT / "data_prep/wordnet/wordnet_nouns.txt.gz").read_bytes()
    assert len(packed) < 700_000
    assert packed[4:8] == bytes(4), "the gzip header holds a modification time"


def test_hypernyms_come_before_instance_hypernyms(graph: NounGraph) -> None:
    # data.noun: `alabama` ... @i american_state, @ south; the pointer `@` is the first here nevertheless
    assert graph.parents["alabama.n.01"] == ("south.n.01", "american_state.n.01")


def test_pointers_keep_their_order_in_the_file(graph: NounGraph) -> None:
    assert graph.parents["dog.n.01"] == ("canine.n.02", "domestic_animal.n.01")
    assert graph.parents["woman.n.01"] == ("female.n.02", "adult.n.01")
    unsorted = [above for above in graph.parents.values() if list(above) != sorted(above)]
    assert len(unsorted) > 500, "the pointers look sorted by name"


def test_a_graph_with_two_roots_is_refused() -> None:
    text = wordnet_graph.HEADER.format("9.9") + "\nentity.n.01\t\t\nstray.n.01\t\t\n"
    with pytest.raises(ValueError, match=r"WordNet 9\.9: entity\.n\.01 must be the only root.*stray\.n\.01"):
        parse_graph(text, "")


# Paths


def test_the_deer_of_the_paper(graph: NounGraph) -> None:
    assert " ".join(climb(choose_parents(graph.parents, "primary"), "deer.n.01")) == DEER


PAIRS = {"primary": 691_102, "longest": 701_954, "shortest": 653_237}


@pytest.mark.parametrize(("path", "pairs"), PAIRS.items())
def test_the_number_of_query_document_pairs(graph: NounGraph, path: str, pairs: int) -> None:
    chosen = choose_parents(graph.parents, path)
    assert len(chosen) == 82_114
    assert sum(len(climb(chosen, name)) for name in chosen) == pairs


@pytest.mark.parametrize(
    ("path", "of_m", "of_t"),
    [
        ("primary", ["a", "r"], ["b", "a", "r"]),
        ("longest", ["c", "b", "a", "r"], ["b", "a", "r"]),
        ("shortest", ["a", "r"], ["b", "a", "r"]),
    ],
)
def test_paths_of_a_small_graph_by_hand(path: str, of_m: list[str], of_t: list[str]) -> None:
    chosen = choose_parents(TOY, path)
    assert climb(chosen, "m") == of_m
    assert climb(chosen, "n") == ["m", *of_m]
    assert climb(chosen, "t") == of_t, "a tie goes to the first pointer"
    assert climb(chosen, "r") == []


def test_longest_and_shortest_are_so_among_all_paths(graph: NounGraph) -> None:
    def lengths(name: str) -> list[int]:
        return [1 + length for above in graph.parents[name] for length in lengths(above)] or [0]

    longest, shortest = (choose_parents(graph.parents, path) for path in ("longest", "shortest"))
    several = [name for name, above in graph.parents.items() if len(above) > 1][::20]
    assert len(several) > 50
    for name in several:
        assert len(climb(longest, name)) == max(lengths(name))
        assert len(climb(shortest, name)) == min(lengths(name))


# Queries, negatives and splits


def test_queries_of_a_subtree(graph: NounGraph) -> None:
    chosen = choose_parents(graph.parents, "primary")
    mammals = find_queries(graph.parents, chosen, "mammal.n.01")
    assert len(mammals) == len(set(mammals)) == 1_175
    assert "deer.n.01" in mammals
    assert not {"mammal.n.01", "vertebrate.n.01"} & set(mammals)
    assert find_queries(TOY, choose_parents(TOY, "longest"), "c") == ["m", "n"]


def test_an_unknown_or_childless_subtree_is_told(graph: NounGraph) -> None:
    chosen = choose_parents(graph.parents, "primary")
    with pytest.raises(ValueError, match=r"subtree=mamal\.n\.01: .*did you mean mammal\.n\.01\?"):
        find_queries(graph.parents, chosen, "mamal.n.01")
    with pytest.raises(ValueError, match="subtree=c: no synset has it on its path"):
        find_queries(TOY, choose_parents(TOY, "primary"), "c")


def test_ancestors_are_those_of_all_paths() -> None:
    assert ancestors(TOY, "n") == {"m", "a", "c", "b", "r"}
    assert ancestors(TOY, "r") == set()


def test_negatives_are_off_every_path_and_reach_everything_else() -> None:
    random = np.random.RandomState(0)
    drawn = [sample_negatives(TOY, list(TOY), "m", 1, random)[0] for _ in range(200)]
    assert set(drawn) == {"x", "t", "n"}, "m itself and all of a, b, c, r are out, on its primary path or not"
    assert 40 < drawn.count("x") < 95, "a third each"
    assert sorted(sample_negatives(TOY, list(TOY), "m", 3, random)) == ["n", "t", "x"]
    with pytest.raises(ValueError, match="negatives=4: for m there are only 3 to choose from"):
        sample_negatives(TOY, list(TOY), "m", 4, random)


def test_other_options_do_not_move_queries_between_splits(graph: NounGraph) -> None:
    def splits(**changes: int) -> dict[str, list[str]]:
        options = WordNetOptions(**{"test_size": 100, **changes})
        rows = make_splits(graph.parents, chosen, mammals, options)
        return {split: [row["query"] for row in rows[split]] for split in rows}

    chosen = choose_parents(graph.parents, "primary")
    mammals = find_queries(graph.parents, chosen, "mammal.n.01")
    assert splits() == splits(negatives=3)
    assert splits(test_size=40)["test"] == splits()["test"][:40]
    seen, apart = splits(held_out=False), splits()
    assert seen["test"] == apart["test"] and seen["train"] == [*apart["test"], *apart["train"]]
    assert splits()["test"] != splits(seed=1)["test"]
    assert splits()["test"] != mammals[:100], "not shuffled"


# The files


def test_the_full_dataset(full: Path, graph: NounGraph) -> None:
    train, test = load_split(full, "train"), load_split(full, "test")
    assert (len(train), len(test)) == (77_114, 5_000)
    queries = [
        name for split in ("train", "test") for name in pq.read_table(full / f"{split}.parquet")["query"].to_pylist()
    ]
    assert sorted(queries) == sorted(graph.parents.keys() - {"entity.n.01"}), "each query once, in one split"
    chosen = choose_parents(graph.parents, "primary")
    for row in test:
        assert row.query_id == row.query
        assert [doc.docid for doc in row.docs] == climb(chosen, row.query)
        (negative,) = row.negatives
        assert negative.docid in graph.parents
        assert negative.docid not in ancestors(graph.parents, row.query) | {row.query}
    assert len({row.negatives[0].docid for row in test}) > 4_500, "negatives come from all nouns"
    assert not any(row.negatives for row in train[:2000])


def test_the_manifest_of_the_full_dataset(full: Path) -> None:
    manifest = load_manifest(full)
    assert {key: manifest[key] for key in ("name", "source", "version", "seed")} == {
        "name": "wordnet",
        "source": "bundled",
        "version": "WordNet 3.0",
        "seed": 0,
    }
    options = {"subtree": "entity.n.01", "path": "primary", "test_size": 5000, "held_out": True, "negatives": 1}
    assert manifest["options"] == options
    train, test = manifest["splits"]["train"], manifest["splits"]["test"]
    assert train["pairs"] + test["pairs"] == 691_102
    assert (train["queries"], test["queries"]) == (77_114, 5_000)
    assert test["mean_docs"] == round(test["pairs"] / 5_000, 4)
    assert (train["negatives"], test["negatives"]) == (0, 5_000)
    assert manifest["files"].keys() == {path.name for path in full.iterdir()} - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == file_sha256(full / name)
    assert (full / "LICENSE").read_bytes() == (ROOT / "data_prep/wordnet/WORDNET_LICENSE").read_bytes()
