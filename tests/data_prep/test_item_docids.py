"""stoical prepare docids: docIDs for a user's own items, the report, and what bad input is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep import docid_paths
from stoical.data.files import load_manifest
from stoical.docids.sparse_codes import docid_texts, learn_dictionary, sparse_paths
from stoical.docids.table import DocIDTable
from tests.support.commands import run
from tests.support.root import ROOT

PRODUCTS = ROOT / "examples" / "shop" / "products.csv"
SMALL = ("dimensions=12", "components=12")


def write(path: Path, *lines: str) -> Path:
    path.write_text("id,title\n" + "".join(f"{number},{line}\n" for number, line in enumerate(lines, 1)))
    return path


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> str:
    assert run("prepare", "docids", *words, f"out={out}") == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("kind", ["sparse", "residual", "hierarchical"])
def test_every_item_gets_its_own_docid(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"input={PRODUCTS}", f"out={tmp_path / 'out'}", f"docids={kind}", *SMALL, "licence=CC0"]
    assert run("prepare", "docids", *words) == 0
    table, manifest = DocIDTable.load(tmp_path / "out" / "items.parquet"), load_manifest(tmp_path / "out")
    assert table.item_ids == [f"P{n:02d}" for n in range(1, 49)]
    assert len(table.items_of) == 48
    assert all(re.fullmatch(r"\[\d+(,\d+){1,3}\]", docid) for docid in table.docids)
    assert (manifest["licence"], manifest["source"], manifest["embedder"]["dimensions"]) == ("CC0", "products.csv", 12)
    assert f"48 items, {manifest['docid_report']['distinct_docids']} distinct docIDs" in capsys.readouterr().out
    before = {tuple(re.findall(r"\d+", docid)[:3]) for docid in table.docids}
    assert manifest["docid_report"]["distinct_docids"] == len(before)
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_docids_are_those_of_the_library_on_the_same_embeddings(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    np.save(tmp_path / "e.npy", embeddings)
    items = write(tmp_path / "items.csv", *[f"item {n}" for n in range(30)])
    npy = [f"input={items}", "embedder=npy", f"title_embeddings={tmp_path / 'e.npy'}", "components=9", "nonzeros=2"]
    assert run("prepare", "docids", *npy, f"out={tmp_path / 'out'}", "collisions=keep_best", "alpha=0.5") == 0
    wanted = docid_texts(sparse_paths(embeddings, learn_dictionary(embeddings, 9, 0.5, 0), 2))
    assert DocIDTable.load(tmp_path / "out" / "items.parquet").docids == wanted


def test_collisions_are_shared_told_apart_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "e.npy", np.array([[1, 2], [2, 1], [1, 2.1]], dtype=np.float32))
    items = write(tmp_path / "items.csv", "a", "b", "c")
    words = [f"input={items}", "embedder=npy", f"title_embeddings={tmp_path / 'e.npy'}", "components=2", "nonzeros=1"]
    docids = {}
    for policy in ("keep_best", "disambiguate"):
        assert run("prepare", "docids", *words, f"out={tmp_path / policy}", f"collisions={policy}") == 0
        docids[policy] = DocIDTable.load(tmp_path / policy / "items.parquet").docids
    first, other, again = docids["keep_best"]
    assert first == again != other
    assert docids["disambiguate"] == [first, other, f"{first[:-1]},1]"]
    capsys.readouterr()
    error = refused(capsys, tmp_path / "out", *words, "collisions=fail")
    assert "items '1' and '3' share a docID; give collisions=disambiguate" in error


def test_items_without_a_docid_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third lies on an atom and the fourth is zero; the fifth has no title and the last an earlier id."""
    np.save(tmp_path / "e.npy", np.array([[1, 2], [2, 1], [3, 0], [0, 0]], dtype=np.float32))
    monkeypatch.setattr(docid_paths, "learn_dictionary", lambda *_: np.eye(2))
    items = write(tmp_path / "items.csv", "a", "b", "c", "d")
    words = [f"input={items}", "embedder=npy", f"title_embeddings={tmp_path / 'e.npy'}", "components=2", "nonzeros=2"]
    assert run("prepare", "docids", *words, f"out={tmp_path / 'out'}") == 0
    assert DocIDTable.load(tmp_path / "out" / "items.parquet").docid_of == {"1": "[1,0]", "2": "[0,1]"}
    assert pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist() == [
        {"reason": "title whose embedding is all zeros", "where": "items.csv:5", "text": "d"},
        {"reason": "title with 1 of 2 non-zeros", "where": "items.csv:4", "text": "c"},
    ]
    items.write_text("id,title\n1,red hose\n2,red hose pipe\n3,red pipe\n4,alone\n5,\n1,red\n,red\n")
    words = [f"input={items}", f"out={tmp_path / 'tfidf'}", "dimensions=2", "components=2", "nonzeros=1"]
    assert run("prepare", "docids", *words) == 0
    found = pq.read_table(tmp_path / "tfidf" / "dropped.parquet").to_pylist()
    assert [(each["reason"], each["where"]) for each in found] == [
        ("item id again", "items.csv:7"),
        ("item without id", "items.csv:8"),
        ("item without text=both", "items.csv:6"),
        ("title whose embedding is all zeros", "items.csv:5"),
    ]


def test_bad_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items, out, array = write(tmp_path / "items.csv", "red hose", "red hose pipe"), tmp_path / "out", tmp_path / "e.npy"
    npy = [f"input={items}", "embedder=npy", f"title_embeddings={array}", "components=2", "nonzeros=1"]
    for rows, message in [
        (np.ones((3, 2)), "e.npy has 3 rows, but there are 2 items: one row for each, in order"),
        (np.array([[1, np.nan], [1, 2]]), "title embeddings[0] (of items.csv:2) holds NaN or infinite numbers"),
        (np.zeros((2, 2)), "no item can have a docID, for the reasons above"),
        (np.ones(2), "e.npy must hold one array of floats, [items, dimensions]"),
    ]:
        np.save(array, rows)
        assert message in refused(capsys, out, *npy)
    for words, message in [
        ([f"input={items}"], "dimensions=256: 2 titles with"),
        ([f"input={items}", "dimensions=2"], "components=100: more than the 2 rows"),
        ([f"input={items}", "docids=text"], "give docids=title to the importer"),
        ([f"input={items}", "embedder=npy"], "embedder=npy needs title_embeddings="),
        ([f"input={items}", "alpha=0"], "alpha=0.0: must be above 0"),
        ([f"input={items}", "docids=residual", "alpha=2"], "alpha=2.0 has no effect with docids=residual"),
        ([f"input={tmp_path / 'nowhere'}"], "give a file of items"),
        ([f"input={items}", "text=text"], "items.csv holds no item with a text"),
    ]:
        assert message in refused(capsys, out, *words)
    items.write_text("id,title\n1,a\n2,\n")
    assert "embedder=npy has a row for every item" in refused(capsys, out, *npy)
