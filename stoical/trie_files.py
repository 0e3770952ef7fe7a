"""Tries on disk: one `.npy` file an array, so that a catalogue's trie is mapped into memory instead of read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from stoical.trie import DocIDTrie


def save_trie(trie: DocIDTrie, directory: Path) -> None:
    """Write the trie's arrays to `<directory>/<array>.npy`, over those of an earlier trie."""
    directory.mkdir(parents=True, exist_ok=True)
    for field in fields(trie):
        np.save(directory / f"{field.name}.npy", getattr(trie, field.name), allow_pickle=False)


def load_trie(directory: Path) -> DocIDTrie:
    """The trie that `save_trie` wrote, its arrays mapped read-only: pages are read where they are touched.

    Raises `ValueError` naming the file that is missing or damaged, and for arrays that are not of one trie.
    """
    arrays = {}
    for field in fields(DocIDTrie):
        path = directory / f"{field.name}.npy"
        try:
            arrays[field.name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array of a saved trie ({error}); save_trie writes one") from error
    trie = DocIDTrie(**arrays)
    if not len(trie.token) == len(trie.parent) == len(trie.depth) == len(trie.child_start) - 1 == trie.child_start[-1]:
        raise ValueError(f"{directory}: the arrays are not of one trie; save it again with save_trie")
    return trie
