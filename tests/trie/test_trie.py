"""The trie against a dictionary of prefixes, on random docIDs of every shape."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.trie.prefix_tree import DuplicateDocIDError, build_trie, first_docids

docid_lists = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=12, unique_by=tuple)


@settings(max_examples=200, deadline=None)
@given(docid_lists)
def test_trie_is_the_set_of_prefixes(docids):
    trie = build_trie(docids)
    spelled = {0: ()}
    for node in range(1, trie.num_nodes):
        assert trie.parent[node] < node
        spelled[node] = (*spelled[int(trie.parent[node])], int(trie.token[node]))
        assert trie.depth[node] == len(spelled[node])
    prefixes = {tuple(ids[:step]) for ids in docids for step in range(len(ids) + 1)}
    assert sorted(spelled.values()) == sorted(prefixes)
    for place, ids in enumerate(docids):
        path = trie.path[place][trie.path[place] >= 0]
        assert [spelled[int(node)] for node in path] == [tuple(ids[: step + 1]) for step in range(len(ids))]
        assert spelled[int(trie.leaf[place])] == tuple(ids)


@settings(max_examples=200, deadline=None)
@given(docid_lists)
def test_children_are_contiguous_and_sorted(docids):
    trie = build_trie(docids)
    for node in range(trie.num_nodes):
        children = [n for n in range(1, trie.num_nodes) if trie.parent[n] == node]
        assert trie.children(node).tolist() == children
        tokens = trie.token[children].tolist()
        assert tokens == sorted(set(tokens))


@settings(max_examples=200, deadline=None)
@given(docid_lists, st.data())
def test_the_first_docids_have_the_trie_that_is_built_of_them(docids, data):
    whole, count = build_trie(docids), data.draw(st.integers(1, len(docids)))
    wanted = build_trie(docids[:count])
    part, place = first_docids(whole, count)
    for each in fields(wanted):
        np.testing.assert_array_equal(getattr(part, each.name), getattr(wanted, each.name), strict=True)
    for own, ids in zip(part.path, docids, strict=False):
        assert whole.token[place[own[own >= 0]]].tolist() == list(ids)
    assert whole.depth[place].tolist() == part.depth.tolist()


def test_the_papers_toy_trie():
    """Figure 2a: dog, cat, cats, deer, fish; "cat" is an inner node."""
    d, og, c, at, s, eer, f, ish = range(8)
    trie = build_trie([[d, og], [c, at], [c, at, s], [d, eer], [f, ish]])
    assert trie.num_nodes == 1 + 3 + 4 + 1
    assert trie.token[trie.children(0)].tolist() == sorted([d, c, f])
    cat = int(trie.leaf[1])
    assert trie.token[trie.children(cat)].tolist() == [s]


@settings(max_examples=50, deadline=None)
@given(docid_lists, st.data())
def test_equal_docids_are_named(docids, data):
    again = data.draw(st.integers(0, len(docids) - 1))
    with pytest.raises(DuplicateDocIDError) as error:
        build_trie([*docids, docids[again]])
    assert (error.value.first, error.value.second) == (again, len(docids))


@pytest.mark.parametrize("docids", [[], [[]], [[1], []]])
def test_empty_docids_are_refused(docids):
    with pytest.raises(ValueError, match="at least one"):
        build_trie(docids)


def test_large_trie_keeps_the_contract():
    """Thousands of docIDs through the same code: every docID is found by walking down from the root."""
    rng = np.random.default_rng(0)
    docids = [list(ids) for ids in {tuple(rng.integers(0, 30, size=5).tolist()) for _ in range(3000)}]
    trie = build_trie(docids)
    for place in range(0, len(docids), 97):
        node = 0
        for token in docids[place]:
            children = trie.children(node)
            node = int(children[np.searchsorted(trie.token[children], token)])
            assert trie.token[node] == token
        assert node == trie.leaf[place]
