"""A million tokenized docIDs, random or made of real names, and what their tries cost to make, keep and load."""

from __future__ import annotations

import gc
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from benchmarks.synthetic import EOS, FIRST_TOKEN
from data_prep.wordnet.graph import bundled_graph
from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.logits_processor import TrieLogitsProcessor
from stoical.encoding.tokenization import mistral_v3_tokenizer
from stoical.trie.prefix_tree import DocIDTrie, build_trie, load_trie, save_trie

DocIDs = list[list[int]]


def random_catalogue(docs: int, vocab: int, seed: int) -> DocIDs:
    """Distinct docIDs of 7 uniformly random tokens and EOS: little is shared below the first token."""
    rng = np.random.default_rng(seed)
    ids = np.unique(rng.integers(FIRST_TOKEN, vocab, size=(docs + docs // 100 + 10, 7)), axis=0)
    ids = rng.permutation(ids)[:docs]
    return np.hstack([ids, np.full((docs, 1), EOS)]).tolist()


def wordnet_catalogue(docs: int, vocab: int, seed: int) -> DocIDs:
    """WordNet's 82,115 synset names, then pairs of a name and one of its hypernyms, in Mistral's tokens and EOS.

    A pair is the ids of both names, one after the other. There are 1.57 million names and pairs.
    """
    parents = bundled_graph().parents
    names = list(parents)
    ids = dict(zip(names, mistral_v3_tokenizer()(names, add_special_tokens=False)["input_ids"], strict=True))
    above: dict[str, dict[str, None]] = {}

    def hypernyms(name: str) -> dict[str, None]:
        if name not in above:
            above[name] = dict.fromkeys(parents[name])
            for parent in parents[name]:
                above[name] |= hypernyms(parent)
        return above[name]

    def parts() -> Iterator[tuple[str, ...]]:
        yield from ((name,) for name in names)
        yield from ((name, other) for name in names for other in hypernyms(name))
        yield from ((other, name) for name in names for other in hypernyms(name))

    return [[*(token for part in chosen for token in ids[part]), EOS] for chosen in islice(parts(), docs)]


CATALOGUES: dict[str, Callable[[int, int, int], DocIDs]] = {"random": random_catalogue, "wordnet": wordnet_catalogue}


def measure_trie(docids: DocIDs) -> tuple[DocIDTrie, dict[str, Any]]:
    """Build, save and load: seconds (processor time for the build) and megabytes.

    Built twice, the second time for its peak memory, which is beside that of the docIDs' own lists.
    """
    start = time.process_time()
    trie = build_trie(docids)
    facts: dict[str, Any] = {"docs": len(docids), "nodes": trie.num_nodes, "longest": trie.path.shape[1]}
    facts["build_s"] = time.process_time() - start
    tracemalloc.start()
    build_trie(docids)
    facts["peak_mb"] = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as directory:
        _, facts["save_s"] = _timed(lambda: save_trie(trie, Path(directory)))
        facts["disk_mb"] = sum(file.stat().st_size for file in Path(directory).iterdir()) / 1e6
        loaded, facts["load_s"] = _timed(lambda: load_trie(Path(directory)))
        device, facts["to_device_s"] = _timed(lambda: DeviceTrie.from_trie(loaded))
    facts["device_mb"] = sum(getattr(device, f.name).nbytes for f in fields(device)) / 1e6
    return trie, facts


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def measure_dict_trie(docids: DocIDs) -> tuple[dict[int, Any], dict[str, float]]:
    """Nested dictionaries, as most people write a trie for `prefix_allowed_tokens_fn`: seconds and megabytes.

    The garbage collector is kept from walking them from then on.
    """
    gc.disable()
    start = time.process_time()
    root: dict[int, Any] = {}
    for ids in docids:
        node = root
        for token in ids:
            node = node.setdefault(token, {})
    facts = {"dict_build_s": time.process_time() - start}
    gc.freeze()
    gc.enable()
    return root, facts | {"dict_mb": _size(root) / 1e6}


def _size(root: dict[int, Any]) -> int:
    """Bytes of all dictionaries."""
    total, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        total += sys.getsizeof(node)
        waiting += node.values()
    return total


def allowed_tokens(root: dict[int, Any], prompt: int) -> Callable[[int, Tensor], list[int]]:
    """What `generate` calls for every beam: the children of what was generated after `prompt` tokens, EOS at a leaf."""

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        node = root
        for token in input_ids[prompt:].tolist():
            node = node.get(token, {})
        return list(node) or [EOS]

    return allowed


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The same docIDs in the forms that the three ways need."""

    docids: DocIDs
    trie: DocIDTrie
    device: DeviceTrie
    dictionary: dict[int, Any]

    def processors(self, prompt: int, beams: int) -> dict[str, LogitsProcessor]:
        """The two that `generate` takes."""
        function = allowed_tokens(self.dictionary, prompt)
        return {
            "processor": TrieLogitsProcessor(self.device, prompt, EOS),
            "prefix fn": PrefixConstrainedLogitsProcessor(function, beams),
        }


def measure_catalogue(docids: DocIDs) -> tuple[Catalogue, dict[str, Any]]:
    """Both kinds of trie of the docIDs, and what they cost."""
    trie, facts = measure_trie(docids)
    dictionary, dict_facts = measure_dict_trie(docids)
    return Catalogue(docids, trie, DeviceTrie.from_trie(trie), dictionary), facts | dict_facts
