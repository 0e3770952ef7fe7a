"""docIDs: codes in the paper's order, collision policies and reports worked out by hand, k-means, the saved table."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import MiniBatchDictionaryLearning

from stoical.docids import sparse_codes as docids
from stoical.docids.collisions import DocIDCollisionError, disambiguate, repeated, resolve_collisions, same_docid
from stoical.docids.kmeans import hierarchical_kmeans_paths, residual_kmeans_paths
from stoical.docids.report import docid_report, prefix_numbers, trie_shape, word_paths
from stoical.docids.sparse_codes import docid_texts, learn_dictionary, short_rows, sparse_paths
from stoical.docids.table import DocIDTable

PATHS = np.array([[25, 36, 39], [25, 69, 59], [25, 36, 39], [36, 25, 31], [25, 36, 26], [25, 36, 39]])
"""Six items, of which 0, 2 and 5 share a docID."""
LISTS = np.array([[2, 1, 0, 5], [3, 4, 1, -1], [5, 3, 0, -1]])
"""Rows of PATHS, best first; the first list has two duplicates, the last has one."""


def clustered(seed: int = 0, rows: int = 400, dimensions: int = 12) -> docids.Floats:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(15, dimensions)) * 3
    return (centres[rng.integers(15, size=rows)] + rng.normal(size=(rows, dimensions))).astype(np.float32)


def test_components_come_by_descending_magnitude_then_by_number() -> None:
    """On unit vectors the coefficients are the entries: 1, -5, 2 at 0, 1, 3; equal 4s at 4 and 2; one entry alone."""
    rows = np.array([[1.0, -5, 0, 2, 0], [0, 3, -4, 0, 4], [0, 0, 0, 7, 0], [0, 0, 0, 0, 0]])
    paths = sparse_paths(rows, np.eye(5), 3)
    assert paths.tolist() == [[1, 3, 0], [2, 4, 1], [3, -1, -1], [-1, -1, -1]]
    assert short_rows(paths) == {2: 1, 3: 0}
    assert docid_texts(paths[:3]) == ["[1,3,0]", "[2,4,1]", "[3]"]
    with pytest.raises(ValueError, match="1 rows have no component, as their embeddings are all zeros: rows 3"):
        docid_texts(paths)


def test_the_whole_is_what_scikit_learn_alone_makes() -> None:
    rows = clustered(rows=800)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = MiniBatchDictionaryLearning(
            n_components=20, alpha=3.0, transform_algorithm="omp", transform_n_nonzero_coefs=3, random_state=4
        ).fit(rows.astype(np.float64))
        codes = np.abs(reference.transform(rows.astype(np.float64)))
    dictionary = learn_dictionary(rows, components=20, alpha=3.0, seed=4)
    np.testing.assert_allclose(dictionary, reference.components_, rtol=1e-12)
    wanted = np.argsort(-codes, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(sparse_paths(rows, dictionary, 3), wanted)


def test_a_sample_is_learned_from_where_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docids, "FIT_ROWS", 50)
    rows = np.arange(400.0).reshape(200, 2)
    sample = docids.sample_rows(rows, seed=1)
    assert sample.shape == (50, 2)
    assert (np.diff(sample[:, 0]) > 0).all(), "distinct rows, in order"
    assert not np.array_equal(sample, docids.sample_rows(rows, seed=2))
    with pytest.raises(ValueError, match="components=60: more than the 50 rows"):
        learn_dictionary(rows, 60, 1.0, 0)


def test_the_best_ranked_keeps_a_docid() -> None:
    assert same_docid(PATHS).tolist() == [1, 2, 1, 3, 0, 1]
    wanted = [[False, False, True, True], [False] * 4, [False, False, True, False]]
    assert repeated(same_docid(PATHS), LISTS).tolist() == wanted
    paths, keep = resolve_collisions(PATHS, LISTS, "keep_best")
    assert paths is PATHS
    assert keep.tolist() == [[True, True, False, False], [True, True, True, False], [True, True, False, False]]


def test_a_further_component_tells_items_apart_in_all_lists() -> None:
    paths, keep = resolve_collisions(PATHS, LISTS, "disambiguate")
    assert docid_texts(paths) == [
        "[25,36,39]",
        "[25,69,59]",
        "[25,36,39,1]",
        "[36,25,31]",
        "[25,36,26]",
        "[25,36,39,2]",
    ]
    assert keep.tolist() == (LISTS >= 0).tolist()
    rng = np.random.default_rng(0)
    many = disambiguate(rng.integers(0, 3, size=(500, 3)))
    assert len(set(docid_texts(many))) == 500


def test_failing_names_the_two_items() -> None:
    with pytest.raises(DocIDCollisionError, match="list 0: items 2 and 0 have the same docID") as caught:
        resolve_collisions(PATHS, LISTS, "fail")
    assert (caught.value.query, caught.value.first, caught.value.second) == (0, 2, 0)
    assert resolve_collisions(PATHS, LISTS[1:2], "fail")[1].tolist() == [[True, True, True, False]]


def test_repeats_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    groups, lists = rng.integers(0, 12, size=40), rng.integers(-1, 40, size=(200, 9))
    wanted = np.zeros(lists.shape, dtype=bool)
    for query, row in enumerate(lists):
        seen: set[int] = set()
        for place, item in enumerate(row):
            wanted[query, place] = item >= 0 and groups[item] in seen
            seen |= {groups[item]} if item >= 0 else set()
    np.testing.assert_array_equal(repeated(groups, lists), wanted)


def test_report_by_hand() -> None:
    """Trie: 25 -> {36 -> {39 x3, 26}, 69 -> {59}}, 36 -> {25 -> {31}}."""
    report = docid_report(PATHS, LISTS)
    counts = {key: value for key, value in report.items() if not key.startswith("trie")}
    assert counts == {
        "items": 6,
        "distinct_docids": 4,
        "largest_group": 3,
        "lists": 3,
        "lists_with_duplicates": 2,
        "duplicates": 3,
        "duplicates_per_list": 1.0,
        "most_duplicates_in_a_list": 2,
    }
    trie = report["trie"]
    assert (trie["nodes"], trie["nodes_by_depth"]) == (1 + 2 + 3 + 4, [2, 3, 4])
    assert (trie["children_mean"], trie["children_most"]) == ([2.0, 1.5, 1.3333], [2, 2, 2])
    first = -(5 / 6 * log(5 / 6) + 1 / 6 * log(1 / 6))
    second = -5 / 6 * (4 / 5 * log(4 / 5) + 1 / 5 * log(1 / 5))
    third = -4 / 6 * (3 / 4 * log(3 / 4) + 1 / 4 * log(1 / 4))
    np.testing.assert_allclose(trie["entropy_by_depth"], [first, second, third], atol=1e-4)
    assert trie["entropy"] == pytest.approx(first + second + third, abs=1e-4)
    assert trie["entropy_if_distinct"] == pytest.approx(log(6), abs=1e-4)
    # list 0: 25 -> {36 -> 39, 69 -> 59}; list 1: three paths, two of which start with 25; list 2: two paths
    assert report["trie_of_a_list"] == {"documents": 3.3333, "nodes_by_depth": [1.6667, 2.3333, 2.3333]}


def test_paths_of_unequal_length_are_counted_once_where_they_end() -> None:
    paths = np.array([[4, -1], [4, 0], [5, 0], [5, 1]])
    assert (prefix_numbers(paths)[0] != prefix_numbers(paths)[1]).tolist() == [False, True]
    shape = trie_shape(paths)
    assert (shape["nodes"], shape["nodes_by_depth"], shape["children_mean"]) == (6, [2, 3], [2.0, 1.5])
    assert shape["entropy"] == pytest.approx(log(4), abs=1e-4)


def test_words_of_plain_text_docids() -> None:
    paths = word_paths(["usb c cable", "usb hub", "usb c"])
    assert paths.tolist() == [[0, 1, 2], [0, 3, -1], [0, 1, -1]]
    assert trie_shape(paths)["nodes_by_depth"] == [1, 2, 1]


@pytest.mark.parametrize("make", [residual_kmeans_paths, hierarchical_kmeans_paths])
def test_kmeans_docids(make: Callable[..., docids.Ints]) -> None:
    rows = clustered()
    paths = make(rows, 10, 3, seed=0)
    assert paths.shape == (400, 3)
    assert paths.min() >= -1
    assert paths.max() < 10
    assert (paths[:, 0] >= 0).all()
    np.testing.assert_array_equal(paths, make(rows, 10, 3, seed=0))
    report = docid_report(paths, np.array([[0, 1, 2]]))
    assert report["distinct_docids"] > 100
    assert report["trie"]["nodes_by_depth"][0] == 10
    near = np.argsort(((rows - rows[0]) ** 2).sum(axis=1))[1]
    assert paths[near, 0] == paths[0, 0], "the nearest row has the same first component"


def test_residual_levels_come_closer_to_the_row() -> None:
    """Centres by hand: 0 and 10 first, then what is left of 0, 1, 10 and 11 is 0 or 1 twice, up to the mean."""
    rows = np.repeat(np.array([[0.0], [1], [10], [11]]), 5, axis=0)
    paths = residual_kmeans_paths(rows, 2, 2, seed=0)
    groups = same_docid(paths).reshape(4, 5)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) == 4
    assert paths[0, 0] == paths[5, 0] != paths[10, 0] == paths[15, 0]
    assert paths[0, 1] == paths[10, 1] != paths[5, 1] == paths[15, 1]


def test_small_groups_are_numbered_and_equal_rows_end() -> None:
    rows = np.vstack([np.zeros((30, 2)), [[5.0, 5], [5, 6], [6, 5]]])
    paths = hierarchical_kmeans_paths(rows, 4, 3, seed=0)
    far = paths[30:]
    assert len(np.unique(far, axis=0)) == 3
    assert len(np.unique(paths[:30], axis=0)) < 30, "thirty equal rows cannot be told apart"
    assert hierarchical_kmeans_paths(rows[:4], 4, 3, seed=0).tolist() == [[n, -1, -1] for n in range(4)]


def test_the_table_is_saved_and_loaded(tmp_path: Path) -> None:
    table = DocIDTable(["B1", "B2", "B3"], ["[1,2,3]", "[4]", "[1,2,3]"], ["usb", "hub", "cable"])
    table.save(tmp_path / "items.parquet")
    loaded = DocIDTable.load(tmp_path / "items.parquet")
    assert loaded == table
    assert loaded.docid_of["B3"] == "[1,2,3]"
    assert loaded.items_of == {"[1,2,3]": ["B1", "B3"], "[4]": ["B2"]}


def test_a_bad_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    with pytest.raises(ValueError, match="there is no docID table"):
        DocIDTable.load(path)
    DocIDTable(["a", "b"], ["[1]", "[2]"], ["x", "y"]).save(path)
    corrupt = path.read_bytes()[:4] + bytes(64) + path.read_bytes()[68:]
    for broken in (b"PAR1 no", corrupt):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"items\.parquet is not a readable parquet file"):
            DocIDTable.load(path)
    pq.write_table(pa.table({"item_id": ["a"], "text": ["x"]}), path)
    with pytest.raises(ValueError, match=r"items\.parquet has no column docid"):
        DocIDTable.load(path)
    DocIDTable(["a", "b", "a"], ["[1]", "[2]", "[3]"], ["x", "y", "z"]).save(path)
    with pytest.raises(ValueError, match=r"items\.parquet\[2\]: item 'a' was there before, at .*\[0\]"):
        DocIDTable.load(path)


def test_a_table_of_numbers_is_one_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    for items, codes in (([1, 2], [10, 20]), ([1.0, 2.0], ["10", "20"]), (["1 ", " 2"], [10.0, 20.0])):
        pq.write_table(pa.table({"text": [None, "x"], "item_id": items, "docid": codes}), path)
        assert DocIDTable.load(path) == DocIDTable(["1", "2"], ["10", "20"], ["", "x"])


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("docid", "", "item 'b' has no docID: give it one, or leave the item out"),
        ("docid", " \u00a0", "item 'b' has no docID"),
        ("docid", None, "item 'b' has no docID"),
        ("item_id", " ", "item_id is empty"),
        ("item_id", None, "item_id is empty"),
        ("item_id", "a ", "item 'a' was there before, at "),
    ],
)
def test_a_table_with_gaps_is_refused_with_the_item(
    column: str, cell: str | None, message: str, tmp_path: Path
) -> None:
    columns = {"item_id": ["a", "b"], "docid": ["[1]", "[2]"], "text": ["", ""]}
    columns[column][1] = cell  # type: ignore[call-overload]
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        DocIDTable.load(tmp_path / "items.parquet")
    assert f"items.parquet[1]: {message}" in str(error.value)


def test_a_table_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    for name, cells in (("item_id", [["a"]]), ("docid", [True]), ("docid", [{"x": 1}]), ("text", [5])):
        columns: dict[str, Any] = {"item_id": ["a"], "docid": ["[1]"], "text": [""]} | {name: cells}
        pq.write_table(pa.table(columns), path)
        with pytest.raises(ValueError, match=rf"items\.parquet\[0\].*{name} must be text"):
            DocIDTable.load(path)
