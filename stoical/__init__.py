"""Fine-tune language models to rank: SToICaL, a rank-aware loss over the prefix tree of docIDs.

The names below are what the library offers to import; each is loaded when it is first used, so that `import stoical`
takes no time. docs/library.md shows them at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {  # public name -> the module that defines it
    "Ranker": "stoical.ranker",
    "load_recipe": "stoical.config.loading",
    "train": "stoical.training.run",
    "evaluate": "stoical.evaluating",
    "RankingRow": "stoical.data.rows",
    "load_split": "stoical.data.dataset",
    "QueryEncoder": "stoical.encoding.queries",
    "EncodedDataset": "stoical.encoding.queries",
    "TargetSettings": "stoical.trie.node_weights",
    "TrieTargetCollator": "stoical.encoding.packing",
    "SToICaLLoss": "stoical.objectives.stoical_loss",
    "build_trie": "stoical.trie.prefix_tree",
    "node_logprobs": "stoical.models.forward",
    "doc_scores": "stoical.decoding.scores",
    "DeviceTrie": "stoical.decoding.device_trie",
    "beam_search": "stoical.decoding.beam_search",
}
__all__ = [
    "DeviceTrie",
    "EncodedDataset",
    "QueryEncoder",
    "Ranker",
    "RankingRow",
    "SToICaLLoss",
    "TargetSettings",
    "TrieTargetCollator",
    "__version__",
    "beam_search",
    "build_trie",
    "doc_scores",
    "evaluate",
    "load_recipe",
    "load_split",
    "node_logprobs",
    "train",
]

if TYPE_CHECKING:
    from stoical.config.loading import load_recipe
    from stoical.data.dataset import load_split
    from stoical.data.rows import RankingRow
    from stoical.decoding.beam_search import beam_search
    from stoical.decoding.device_trie import DeviceTrie
    from stoical.decoding.scores import doc_scores
    from stoical.encoding.packing import TrieTargetCollator
    from stoical.encoding.queries import EncodedDataset, QueryEncoder
    from stoical.evaluating import evaluate
    from stoical.models.forward import node_logprobs
    from stoical.objectives.stoical_loss import SToICaLLoss
    from stoical.ranker import Ranker
    from stoical.training.run import train
    from stoical.trie.node_weights import TargetSettings
    from stoical.trie.prefix_tree import build_trie


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stoical' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
