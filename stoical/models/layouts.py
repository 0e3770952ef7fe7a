"""The names of what a trie can be run through: layouts of a forward pass, and attention implementations.

Apart from `forward.py` and `attention.py`, so that a recipe can be checked before torch is imported.
"""

from __future__ import annotations

from typing import Literal

Layout = Literal["sequence", "cache", "pointwise"]
TRIE_ATTENTION = "trie_sdpa"
MASKABLE = (TRIE_ATTENTION, "sdpa", "eager")  # attention implementations that take the mask of a trie
