"""stoical prepare esci: what it reads, makes and writes, on a slice of ESCI (tests/support/esci_slice)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import top_ranks as top_ranks_module
from data_prep.esci.files import EXAMPLES, PRODUCTS
from data_prep.esci.options import EsciOptions
from data_prep.top_ranks import rank_rule, top_ranks
from stoical.common.arguments import parse_options
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.docids.table import DocIDTable
from stoical.encoding.prompts import load_template
from tests.support.commands import run
from tests.support.esci_tables import SLICE, examples, joined, products, row, write
from tests.support.root import ROOT

SHARED = ROOT.parent / "shared" / "data"
SMALL = ("dimensions=32", "rank_end=300", "rank_step=50", "components=20", "alpha=0.2", "test_size=50")
TOY = ("dimensions=3", "rank_end=4", "rank_step=2", "components=3", "nonzeros=1", "test_size=1")


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_rank_rule() -> None:
    paper = rank_rule(1, 100, 10_000)
    assert paper[:4] == [1, 100, 200, 300]
    assert (paper[-1], len(paper)) == (10_000, 101)
    assert rank_rule(1, 1, 5) == [1, 2, 3, 4, 5]
    assert rank_rule(1, 100, 99) == [1]
    assert rank_rule(30, 20, 90) == [30, 40, 60, 80]
    for wrong in ((0, 1, 5), (6, 1, 5), (1, 0, 5)):
        with pytest.raises(ValueError, match="ranks start at 1"):
            rank_rule(*wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_ranks_are_those_of_a_full_sort(dtype: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small integers: sums are exact, and half of all titles tie with others, which the first of equals wins."""
    rng = np.random.default_rng(0)
    queries = rng.integers(-3, 4, size=(37, 6)).astype(dtype)
    titles = rng.integers(-3, 4, size=(500, 6)).astype(dtype)
    usable = rng.random(500) > 0.1
    ranks = rank_rule(1, 20, 400)
    scores = np.where(usable, queries @ titles.T, -np.inf)
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, np.array(ranks) - 1]
    np.testing.assert_array_equal(top_ranks(queries, titles, ranks, usable), wanted)
    monkeypatch.setattr(top_ranks_module, "SCORE_BYTES", 500 * 8 * 5)
    monkeypatch.setattr(top_ranks_module, "TITLE_ROWS", 64)
    np.save(tmp_path / "titles.npy", titles)
    mapped = np.load(tmp_path / "titles.npy", mmap_mode="c")
    np.testing.assert_array_equal(top_ranks(queries, mapped, ranks, usable), wanted)
    with pytest.raises(ValueError, match=f"needs at least 500 titles with a docID, but there are {usable.sum()}"):
        top_ranks(queries, titles, [1, 500], usable)


def test_top_ranks_of_real_numbers() -> None:
    rng = np.random.default_rng(1)
    queries, titles = rng.normal(size=(20, 48)), rng.normal(size=(3000, 48))
    wanted = np.argsort(-(queries @ titles.T), axis=1)[:, [0, 9, 99, 999]]
    np.testing.assert_array_equal(top_ranks(queries, titles, [1, 10, 100, 1000], np.ones(3000, dtype=bool)), wanted)


def test_the_slice_becomes_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "esci"
    assert run("prepare", "esci", f"source={SLICE}", f"out={out}", *SMALL) == 0, capsys.readouterr().err
    printed, manifest = capsys.readouterr().out, load_manifest(out)
    train, test = load_split(out, "train"), load_split(out, "test")
    assert len(test) == 50
    rows = [*train, *test]
    table = DocIDTable.load(out / "items.parquet")
    titles = dict(zip(table.texts, table.docids, strict=True))
    assert all(titles[doc.text or ""] == doc.docid for row in rows for doc in row.docs)
    assert all(doc.docid.count(",") == 2 for row in rows for doc in row.docs)
    counts, report, dropped = manifest["counts"], manifest["docid_report"], manifest["dropped"]
    assert counts["queries"] == {"found": 254, "published": 130_192}
    assert counts["products"] == {"found": 725, "published": 1_802_771}
    assert counts["pairs"] == {"found": 727, "published": 2_621_284}
    assert counts["us_labels"] == {"Exact": 664, "Substitute": 49, "Complement": 1, "Irrelevant": 13}
    assert "254 in the source, 130,192 published" in printed
    assert len(rows) + dropped["query whose embedding is all zeros"]["rows"] == 254
    zero, same = (dropped[f"title {why}"]["rows"] for why in ("whose embedding is all zeros", "of an earlier product"))
    assert len(table.item_ids) + zero + same == 725
    assert sum(entry["rows"] for entry in dropped.values()) == pq.read_table(out / "dropped.parquet").num_rows
    assert report["duplicates"] == manifest["collisions"]["documents_dropped"] > 0
    assert sum(len(row.docs) for row in rows) == report["lists"] * 7 - report["duplicates"]
    assert manifest["embedder"]["name"] == "tfidf"
    assert "Apache License" in (out / "LICENSE").read_text()
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    prompt = load_template("esci").render(rows[0].query, rows[0].docs)
    assert f"Product titles: {rows[0].docs[0].docid} {rows[0].docs[0].text} || [" in prompt


def test_the_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("prepare", "esci", f"source={SLICE}", f"out={tmp_path / name}", *SMALL) == 0
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert files[0].keys() == {f"{n}.parquet" for n in ("train", "test", "items", "dropped")} | {
        "LICENSE",
        "manifest.json",
    }


@pytest.mark.parametrize("scheme", ["residual", "hierarchical", "text"])
def test_other_docids_have_the_same_report(scheme: str, tmp_path: Path) -> None:
    small = [
        option for option in SMALL if not option.startswith(("alpha", "components" if scheme == "text" else "alpha"))
    ]
    assert run("prepare", "esci", f"source={SLICE}", f"out={tmp_path / 'out'}", f"docids={scheme}", *small) == 0
    report, rows = load_manifest(tmp_path / "out")["docid_report"], load_split(tmp_path / "out", "test")
    assert report.keys() >= {"distinct_docids", "lists_with_duplicates", "trie", "trie_of_a_list"}
    assert all((doc.docid == doc.text) == (scheme == "text") for doc in rows[0].docs)


def test_disambiguated_docids_keep_every_document(tmp_path: Path) -> None:
    assert run("prepare", "esci", f"source={SLICE}", f"out={tmp_path / 'out'}", "collisions=disambiguate", *SMALL) == 0
    manifest, table = load_manifest(tmp_path / "out"), DocIDTable.load(tmp_path / "out" / "items.parquet")
    assert manifest["collisions"] == {"policy": "disambiguate", "documents_dropped": 0, "lists_shortened": 0}
    assert manifest["docid_report"]["duplicates"] > 0, "before they were told apart"
    assert len(set(table.docids)) == len(table.docids)
    assert all(len(row.docs) == 7 for row in load_split(tmp_path / "out", "test"))


def test_failing_names_query_and_titles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "esci", f"source={SLICE}", f"out={tmp_path / 'out'}", "collisions=fail", *SMALL) == 2
    error = capsys.readouterr().err
    assert "query '" in error
    assert "(shopping_queries_dataset_examples.parquet[" in error
    assert "share a docID; give collisions=keep_best or collisions=disambiguate" in error
    assert not (tmp_path / "out").exists()


def test_all_sources_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy as official files, as one joined file of either kind, from the hub, and as queries and titles apart."""
    write(tmp_path / "official" / EXAMPLES, examples())
    write(tmp_path / "official" / PRODUCTS, products())
    for name in ("joined.parquet", "joined.jsonl"):
        write(tmp_path / name, joined())
    write(tmp_path / "queries.jsonl", [row(r, "query", "query_id", "product_locale", "split") for r in examples()])
    hub = [{**r, "esci_label": "Exact"} for r in joined()]
    parts = {
        split: [row(r, *(r.keys() - {"split"})) for r in hub if r["split"] == split] for split in ("train", "test")
    }
    loaded = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in parts.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: {"tasksource/esci": loaded}[name])
    sources = {
        "official": [f"source={tmp_path / 'official'}"],
        "parquet": [f"source={tmp_path / 'joined.parquet'}"],
        "jsonl": [f"source={tmp_path / 'joined.jsonl'}"],
        "hub": ["source=tasksource/esci", "revision=abc"],
        "apart": [f"queries={tmp_path / 'queries.jsonl'}", f"titles={tmp_path / 'official' / PRODUCTS}"],
    }
    found = {}
    for name, arguments in sources.items():
        out = tmp_path / f"out_{name}"
        toy = [option for option in TOY if not option.startswith("test_size")]
        assert run("prepare", "esci", *arguments, f"out={out}", *toy) == 0, name
        rows = [*load_split(out, "train"), *load_split(out, "test")]
        found[name] = {r.query_id: (r.query, [doc.text for doc in r.docs]) for r in rows}, len(load_split(out, "test"))
    assert all(value == found["official"] for value in found.values())
    assert found["official"][1] == 1
    assert set(found["official"][0]) == {"1", "2", "3"}
    manifest = load_manifest(tmp_path / "out_hub")
    assert (manifest["source"], manifest["version"]) == ("tasksource/esci", "abc")
    assert manifest["counts"]["us_labels"] == {"Exact": len(hub)}


def test_texts_are_written_for_embedding_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "joined.jsonl", joined())
    texts, out = tmp_path / "texts", tmp_path / "out"
    assert run("prepare", "esci", f"source={tmp_path / 'joined.jsonl'}", f"texts={texts}", *TOY) == 0
    queries, titles = (pq.read_table(texts / f"{name}.parquet") for name in ("queries", "titles"))
    assert queries["text"].to_pylist() == ["usb cable", "gas can", "usb hub"]
    rng = np.random.default_rng(0)
    embeddings = {name: rng.normal(size=(len(table), 5)) for name, table in (("q", queries), ("t", titles))}
    for name, array in embeddings.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    npy = [f"{what}_embeddings={tmp_path / what[0]}.npy" for what in ("query", "title")]
    toy = [option for option in TOY if not option.startswith(("dimensions", "test_size"))]
    words = [f"source={tmp_path / 'joined.jsonl'}", f"out={out}", "embedder=npy", *npy, "collisions=disambiguate", *toy]
    assert run("prepare", "esci", *words) == 0
    order = np.argsort(-(embeddings["q"].astype(np.float32) @ embeddings["t"].astype(np.float32).T), axis=1)
    all_rows = {r.query: [doc.text for doc in r.docs] for split in ("train", "test") for r in load_split(out, split)}
    for row_number, query in enumerate(queries["text"].to_pylist()):
        assert all_rows[query] == [titles["text"][int(order[row_number, rank - 1])].as_py() for rank in (1, 2, 4)]
    facts = load_manifest(out)["embedder"]
    assert facts["name"] == "npy"
    assert facts["revision"].keys() == {"q.npy", "t.npy"}


def test_a_sentence_transformers_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __init__(self, name: str, revision: str | None, device: str) -> None:
            if name != "some/model":
                raise OSError(f"no model {name}")
            config = SimpleNamespace(_commit_hash="c0ffee")
            self.parts = [SimpleNamespace(auto_model=SimpleNamespace(config=config))]

        def __getitem__(self, index: int) -> SimpleNamespace:
            return self.parts[index]

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([[len(text), text.count("e") + 1, text.count("c")] for text in texts], dtype=float)

    write(tmp_path / "joined.jsonl", joined())
    toy = [option for option in TOY if not option.startswith(("dimensions", "test_size"))]
    arguments = [f"source={tmp_path / 'joined.jsonl'}", f"out={tmp_path / 'out'}", *toy]
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    assert run("prepare", "esci", *arguments, "embedder=some/model", "collisions=disambiguate") == 0
    assert load_manifest(tmp_path / "out")["embedder"] == {"name": "some/model", "revision": "c0ffee", "dimensions": 3}
    assert run("prepare", "esci", *arguments, "embedder=other/model") == 2


def test_titles_of_other_locales_can_be_ranked_and_then_left_out(tmp_path: Path) -> None:
    """As the paper does: with corpus=all the ranks count every title, and the lists keep those of the US."""
    write(tmp_path / "joined.jsonl", joined(spanish=True))
    sizes = ["rank_end=6", "rank_step=1", "dimensions=3", "components=3", "nonzeros=1"]
    arguments = [f"source={tmp_path / 'joined.jsonl'}", "collisions=disambiguate", *sizes]
    lengths = {}
    for corpus in ("us", "all"):
        out = tmp_path / corpus
        assert run("prepare", "esci", *arguments, f"out={out}", f"corpus={corpus}") == 0
        rows = [*load_split(out, "train"), *load_split(out, "test")]
        assert not any("cargador" in (doc.text or "") for row in rows for doc in row.docs)
        lengths[corpus] = sorted(len(row.docs) for row in rows)
    assert lengths["us"] == [6, 6, 6]
    assert lengths["all"][0] < 6


def test_every_option_has_help_and_conflicts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "esci", "--help") == 0
    assert "rank_step=100" in capsys.readouterr().out
    assert parse_options(EsciOptions, {}).collisions == "keep_best"
    for arguments, message in (
        (["docids=text", "components=5"], "components=5 has no effect with docids=text"),
        (["docids=residual", "alpha=0.5"], "alpha=0.5 has no effect with docids=residual"),
        (["embedder=npy"], "embedder=npy needs query_embeddings= and title_embeddings="),
        (["embedder=npy", "dimensions=5"], "dimensions=5 has no effect with embedder=npy"),
        (["query_embeddings=a.npy"], "query_embeddings=a.npy has no effect with embedder=tfidf"),
        (["docids=text", "collisions=disambiguate"], "collisions=disambiguate adds a number"),
        (["queries=a.jsonl"], "give either source=, or queries= and titles="),
        (["components=0"], "components=0: must be above 0"),
        (["seed=-1"], "seed=-1: must be from 0"),
        (["device=abacus"], "device=abacus: "),
        (["revision=main"], "revision=main has no effect with files"),
        (["rank_start=0"], "ranks start at 1"),
    ):
        assert run("prepare", "esci", f"source={SLICE}", f"out={tmp_path / 'out'}", *arguments) == 2
        assert message in capsys.readouterr().err
    assert run("prepare", "esci", "queries=a.jsonl", f"out={tmp_path / 'out'}") == 2
    assert "queries= and titles= go together" in capsys.readouterr().err
    assert run("prepare", "esci", f"out={tmp_path / 'out'}") == 2
    assert "source= is missing: give a directory" in capsys.readouterr().err


@pytest.mark.slow
def test_the_paper_ranks_on_real_titles(tmp_path: Path) -> None:
    """31,925 real titles: 101 ranks a query, as in section 5.1. Nothing here compares with Table 2."""
    if not (SHARED / "esci_queries.parquet").is_file():
        pytest.skip(f"needs the real titles of {SHARED.parent.name}/{SHARED.name}, beside the repository")
    titles = ",".join(str(SHARED / f"{name}.parquet") for name in ("esci_products", "catalog_products"))
    words = [f"queries={SHARED / 'esci_queries.parquet'}", f"titles={titles}", f"out={tmp_path / 'out'}"]
    assert run("prepare", "esci", *words) == 0
    manifest = load_manifest(tmp_path / "out")
    assert manifest["ranks"] == 101
    assert (
        manifest["docid_report"]["items"] + manifest["dropped"]["title whose embedding is all zeros"]["rows"] == 31_925
    )
    assert (
        manifest["docid_report"]["lists"] + manifest["dropped"]["query whose embedding is all zeros"]["rows"] == 1_104
    )
    assert manifest["dropped"]["query of no locale"]["rows"] == 99
    assert manifest["docid_report"]["trie_of_a_list"]["documents"] == 101
    assert len(load_split(tmp_path / "out", "test")) == 310
    json.dumps(manifest)
    assert isinstance(pq.read_table(tmp_path / "out" / "items.parquet"), pa.Table)
