"""A trie on disk is the trie that was saved, mapped and not read."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from stoical.decoding.device_trie import DeviceTrie
from stoical.trie.prefix_tree import build_trie, load_trie, save_trie
from tests.support.random_queries import random_docids


def test_a_loaded_trie_is_the_saved_one(tmp_path):
    trie = build_trie(random_docids(np.random.default_rng(0), 40))
    save_trie(build_trie([[1, 2]]), tmp_path / "new" / "catalogue")
    save_trie(trie, tmp_path / "new" / "catalogue")
    loaded = load_trie(tmp_path / "new" / "catalogue")
    for field in fields(trie):
        array = getattr(loaded, field.name)
        assert isinstance(array, np.memmap)
        assert array.dtype == np.int64
        assert np.array_equal(array, getattr(trie, field.name))
    assert np.array_equal(loaded.leaf, trie.leaf)
    for mapped, held in zip(*(vars_of(DeviceTrie.from_trie(t)) for t in (loaded, trie)), strict=True):
        assert torch.equal(mapped, held)


def vars_of(trie: DeviceTrie) -> list[torch.Tensor]:
    return [getattr(trie, field.name) for field in fields(trie)]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"token\.npy.*save_trie"):
        load_trie(tmp_path)
    save_trie(build_trie([[1, 2], [1, 3]]), tmp_path)
    whole = (tmp_path / "path.npy").read_bytes()
    (tmp_path / "path.npy").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"path\.npy"):
        load_trie(tmp_path)
    (tmp_path / "path.npy").write_bytes(whole)
    np.save(tmp_path / "parent.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="not of one trie"):
        load_trie(tmp_path)
