"""Bad ESCI input: every mistake is one line that names file and row, and every row left out is noted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep import docid_paths
from data_prep.embeddings import Embeddings, zero_rows
from data_prep.esci import build as esci_module
from data_prep.esci.files import EXAMPLES, PRODUCTS
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from tests.support.commands import run
from tests.support.esci_tables import TITLES, examples, joined, products, row, write

SIZES = {"dimensions": 3, "rank_end": 4, "rank_step": 2, "components": 3, "nonzeros": 1, "collisions": "disambiguate"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "data" / EXAMPLES, examples())
    write(tmp_path / "data" / PRODUCTS, products())
    return tmp_path / "data"


def make(source: Path, **options: Any) -> int:
    """The exit code with SIZES and these options; None leaves one at its default."""
    chosen = {"source": source, "out": source.parent / "out", **SIZES, **options}
    return run("prepare", "esci", *[f"{key}={value}" for key, value in chosen.items() if value is not None])


def refused(capsys: pytest.CaptureFixture[str], source: Path, *messages: str) -> None:
    assert make(source) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    for message in messages:
        assert message in error
    assert not (source.parent / "out").exists()


def noted(out: Path) -> dict[str, list[str]]:
    """reason -> where, of all rows that were left out."""
    found: dict[str, list[str]] = {}
    for record in pq.read_table(out / "dropped.parquet").to_pylist():
        found.setdefault(record["reason"], []).append(record["where"])
    summary = load_manifest(out)["dropped"]
    assert {reason: len(where) for reason, where in found.items()} == {key: row["rows"] for key, row in summary.items()}
    return found


def vectors(
    monkeypatch: pytest.MonkeyPatch, queries: Sequence[Sequence[float]], titles: Sequence[Sequence[float]]
) -> None:
    """Let TF-IDF give these embeddings."""
    made = Embeddings(np.array(queries, dtype=np.float32), np.array(titles, dtype=np.float32), {"name": "by hand"})
    monkeypatch.setattr(esci_module, "tfidf_embeddings", lambda *_: made)


@pytest.mark.parametrize(
    ("name", "column"),
    [(EXAMPLES, "query"), (EXAMPLES, "product_id"), (PRODUCTS, "product_title"), (PRODUCTS, "product_locale")],
)
def test_a_missing_column(name: str, column: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [row(record, *(record.keys() - {column})) for record in (examples() if name == EXAMPLES else products())]
    write(data / name, records)
    refused(capsys, data, f"{data / name} has no column {column} (it has: ")


def test_a_missing_column_of_a_joined_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("joined.parquet", "joined.jsonl"):
        write(tmp_path / name, [row(record, *(record.keys() - {"product_title"})) for record in joined()])
        refused(capsys, tmp_path / name, f"{tmp_path / name} has no column product_title")


def test_files_that_cannot_be_read(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (data / PRODUCTS).read_bytes()
    for broken in (b"", b"PAR1", b"not parquet at all", whole[: len(whole) // 2], whole[:4] + bytes(96) + whole[100:]):
        (data / PRODUCTS).write_bytes(broken)
        refused(capsys, data, f"{data / PRODUCTS} is not a readable parquet file: ")
    (data / PRODUCTS).unlink()
    refused(capsys, data, f"{data} has no {PRODUCTS}; give a directory with")
    refused(capsys, data / "nowhere.parquet", "there is no such file or directory; give a directory with")


def test_json_lines_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "joined.jsonl", joined())
    good = path.read_bytes()
    for bad in (b"{", b"\xff{}", b'{"query": "\\ud800"}', b"[1]"):
        path.write_bytes(good + b"\n" + bad + b"\n")
        refused(capsys, path, f"{path}:20: ")
    path.write_bytes(good.replace(b'"usb hub black"', b"17", 1))
    refused(capsys, path, "joined.jsonl:2: product_title must be text, got 17")


def test_labels_and_query_ids_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = joined()
    records[4]["esci_label"] = "X"
    refused(capsys, write(tmp_path / "joined.parquet", records), "joined.parquet[4]: esci_label 'X' is none of")
    records = joined()
    records[7]["query_id"] = 1
    records[7]["query"] = "gas tin"
    message = "joined.parquet[7]: query_id 1 is 'gas tin', but at joined.parquet[0] it is 'usb cable'"
    refused(capsys, write(tmp_path / "joined.parquet", records), message)


def test_splits_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "joined.jsonl"
    for split, message in (
        (None, "joined.jsonl:7: no split, not train or test"),
        ("dev", "split 'dev', not train or test"),
    ):
        write(path, [{**record, "split": split} if record["query_id"] == 2 else record for record in joined()])
        refused(capsys, path, message, "give split=seeded")
        assert make(path, split="seeded", test_size=1) == 0
        (tmp_path / "out").rename(tmp_path / f"out_{split}")
    write(path, [{**record, "split": "train"} for record in joined()])
    refused(capsys, path, "leaves no test query; give split=seeded")
    assert make(path, split="seeded", test_size=3) == 2
    assert "test_size=3: there are 3 queries, and both splits need some" in capsys.readouterr().err
    assert make(write(path, joined()), test_size=2) == 2
    assert "test_size=2 has no effect with split=data" in capsys.readouterr().err


def test_mixed_locales_are_left_out_and_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = joined(spanish=True)
    records.append({**records[0], "query": "no place", "query_id": 11, "product_id": "B9", "product_locale": None})
    path = write(tmp_path / "joined.jsonl", records)
    assert make(path) == 0
    spanish = [f"joined.jsonl:{line}" for line in (19, 20, 21)]
    assert noted(tmp_path / "out") == {
        "query of locale es": spanish,
        "query of no locale": ["joined.jsonl:22"],
        "title of locale es": spanish,
        "title of no locale": ["joined.jsonl:22"],
    }
    assert load_manifest(tmp_path / "out")["counts"]["queries"]["found"] == 5
    (tmp_path / "out").rename(tmp_path / "gone")
    elsewhere = write(tmp_path / "es.parquet", [record for record in records if record["product_locale"] != "us"])
    refused(capsys, elsewhere, "es.parquet: no query of product_locale 'us' (found: es 3, None 1)")


def test_titles_without_text_and_repeated_ones_are_noted(data: Path) -> None:
    more = [
        {"product_id": "N1", "product_title": None, "product_locale": "us"},
        {"product_id": "N2", "product_title": "  ", "product_locale": "us"},
        {"product_id": None, "product_title": "nameless", "product_locale": "us"},
        {"product_id": "B7", "product_title": " usb  hub black", "product_locale": "us"},
        {"product_id": "B1", "product_title": "another usb cable", "product_locale": "us"},
        {"product_id": "B1", "product_title": TITLES["B1"], "product_locale": "us"},
    ]
    write(data / PRODUCTS, products() + more)
    write(data / EXAMPLES, [*examples(), {**examples()[0], "query": None}, {**examples()[0], "split": "test"}])
    assert make(data) == 0
    assert noted(data.parent / "out") == {
        "no query": [f"{EXAMPLES}[18]"],
        "query of another split again": [f"{EXAMPLES}[19]"],
        "no title": [f"{PRODUCTS}[6]", f"{PRODUCTS}[7]"],
        "no product_id": [f"{PRODUCTS}[8]"],
        "title of an earlier product": [f"{PRODUCTS}[9]"],
        "another title of the same product": [f"{PRODUCTS}[10]"],
    }


def test_too_few_titles(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(data, rank_end=None) == 2
    assert "rank 10,000 needs at least 10,000 titles with a docID, but there are 6" in capsys.readouterr().err
    assert make(data, dimensions=50) == 2
    assert "dimensions=50: 6 titles with" in capsys.readouterr().err
    assert make(data, components=7) == 2
    assert "components=7: more than the 6 rows" in capsys.readouterr().err


def test_zero_embeddings_and_short_codes_are_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two titles lie on one atom each, and one is zero; one query is zero."""
    titles = [[1.0, 2, 3], [0, 0, 0], [3, 1, 2], [2, 3, 1], [5, 0, 0], [2, 1, 4]]
    vectors(monkeypatch, [[1, 0, 0], [0, 0, 0], [0, 1, 1]], titles)
    monkeypatch.setattr(docid_paths, "learn_dictionary", lambda *_: np.eye(3))
    changed = {"nonzeros": 2, "split": "seeded", "test_size": 1, "collisions": "keep_best"}
    assert make(data, **changed, rank_step=1) == 0
    assert noted(data.parent / "out") == {
        "title whose embedding is all zeros": [f"{PRODUCTS}[1]"],
        "title with 1 of 2 non-zeros": [f"{PRODUCTS}[4]"],
        "query whose embedding is all zeros": [f"{EXAMPLES}[6]"],
    }
    rows = [*load_split(data.parent / "out", "train"), *load_split(data.parent / "out", "test")]
    left = {TITLES[product] for product in ("B1", "B3", "B4", "B6")}
    assert {doc.text for found in rows for doc in found.docs} == left
    assert make(data, **changed, rank_end=5, rank_step=5) == 2
    assert "needs at least 5 titles with a docID, but there are 4" in capsys.readouterr().err


def test_a_list_with_one_docid_is_left_out(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first query's two best titles have docID [0]; the third's have [1] and [0]."""
    vectors(monkeypatch, [[1.0, 0], [0.9, 1], [0, 1]], [[9, 0], [8, 0], [7, 0], [0, 9], [1, 0], [1, 0]])
    monkeypatch.setattr(docid_paths, "learn_dictionary", lambda *_: np.eye(2))
    changed = {"rank_end": 2, "rank_step": 1, "split": "seeded", "test_size": 1, "collisions": "keep_best"}
    assert make(data, **changed) == 0
    assert noted(data.parent / "out") == {"query whose documents all share a docID": [f"{EXAMPLES}[0]"]}
    assert load_manifest(data.parent / "out")["collisions"]["documents_dropped"] == 1
    vectors(monkeypatch, [[1.0, 0]] * 3, [[9, 0], [8, 0], [7, 0], [0, 9], [1, 0], [1, 0]])
    assert make(data, **changed) == 2
    assert "every list has one docID for all its documents; give collisions=disambiguate" in capsys.readouterr().err


def test_embeddings_from_files_that_do_not_fit(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"q": np.ones((3, 4), dtype=np.float32), "t": np.arange(24, dtype=np.float32).reshape(6, 4) - 11}
    files = {name: data.parent / f"{name}.npy" for name in good}
    npy = {"embedder": "npy", "dimensions": None, "query_embeddings": files["q"], "title_embeddings": files["t"]}

    def told(message: str, **changed: Any) -> None:
        for name, array in {**good, **changed}.items():
            np.save(files[name], array)
        assert make(data, **npy) == 2
        assert message in capsys.readouterr().err

    told(f"{files['t']} has 7 rows, but there are 6 titles: one row for each, in order", t=np.ones((7, 4)))
    told(f"{files['q']} has 2 rows, but there are 3 queries", q=np.ones((2, 4)))
    told(f"{files['q']} has 5 dimensions, but {files['t']} has 4", q=np.ones((3, 5)))
    told(f"{files['t']} must hold one array of floats", t=np.ones((6, 4), dtype=int))
    told(f"{files['t']} must hold one array of floats", t=np.ones(6))
    holed = good["t"].copy()
    holed[2, 1] = np.nan
    told(f"title embeddings[2] (of {PRODUCTS}[2]) holds NaN or infinite numbers", t=holed)
    told(f"query embeddings[0] (of {EXAMPLES}[0]) holds NaN or infinite numbers", q=good["q"] * np.inf)
    for broken in (b"not numpy", b"\x93NUMPY", b"", files["t"].read_bytes()[:150]):
        files["t"].write_bytes(broken)
        assert make(data, **npy) == 2
        assert f"{files['t']} is not a readable .npy file" in capsys.readouterr().err


def test_zero_rows_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.embeddings.BLOCK_ROWS", 4)
    rows = np.ones((11, 3), dtype=np.float32)
    rows[[0, 5, 10]] = 0
    assert zero_rows(rows, [], "x").tolist() == [0, 5, 10]
    rows[9, 2] = np.inf
    with pytest.raises(ValueError, match=r"x\[9\] \(of here\) holds NaN"):
        zero_rows(rows, ["here"] * 11, "x")


def test_the_optional_extra_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert make(data, embedder="some/model", dimensions=None) == 2
    assert "embedder=some/model needs sentence_transformers: pip install" in capsys.readouterr().err
