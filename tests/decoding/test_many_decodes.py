"""Constrained decoding over random tries, ties too: nothing invalid, nothing twice, in the order of exact scores."""

from __future__ import annotations

import random
import time
from collections import Counter
from unittest import mock

import pytest
import torch

import stoical.decoding.beam_search as searching
from stoical.decoding.beam_search import beam_search, greedy
from stoical.decoding.device_trie import DeviceTrie
from stoical.trie.prefix_tree import build_trie
from tests.support.decoding_reference import Case
from tests.support.table_model import PlainSearch, table_model

END, TOKENS = 2, range(3, 8)
KINDS, TYPES = ("flat", "coarse", "fine"), (torch.float32, torch.bfloat16)


def random_case(rng: random.Random) -> Case:
    """1 to 24 docIDs of 1 to 4 of five tokens: prefixes are shared, and without an end token some are prefixes."""
    ending = rng.choice(["counted", "uncounted", "none"])
    bare = {tuple(rng.choices(TOKENS, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 24))}
    docids = [ids if ending == "none" else (*ids, END) for ids in sorted(bare, key=lambda _: rng.random())]
    counted = [len(ids) - (ending == "uncounted") for ids in docids]
    return Case(rng.choices(TOKENS, k=rng.randint(1, 6)), docids, counted, rng.choice(["mean", "sum"]))


def check_decode(seed: int, seen: Counter[str]) -> None:
    """One greedy decode or beam search, equal to the bit to the plain one; `seen` counts what it was about."""
    rng = random.Random(seed)
    case, kind, dtype = random_case(rng), KINDS[seed % 3], TYPES[seed // 3 % 2]
    model = table_model(kind, dtype, seed % 8)
    few = searching.FEW if seed // 12 % 2 else 0  # a pass for the whole trie, or one a level
    trie, plain = DeviceTrie.from_trie(build_trie(case.docids), case.counted), PlainSearch(model, case)
    if seed // 6 % 2:
        with mock.patch.object(searching, "FEW", few):
            hypothesis = greedy(model, case.prompt, trie, case.reduction)
        found, expected = [(hypothesis.doc, hypothesis.score)], [plain.greedy()]
    else:
        num_beams = rng.randint(1, 12)
        with mock.patch.object(searching, "FEW", few):
            hypotheses = beam_search(model, case.prompt, trie, num_beams, case.reduction)
        found, expected = [(each.doc, each.score) for each in hypotheses], plain.beams(num_beams)
        if num_beams >= case.frontier:
            assert expected == plain.ranked(list(range(len(case.docids))))[:num_beams], "wide beams are all docIDs"
            seen["exhaustive"] += 1
        seen["beam searches"] += 1
    docs = [doc for doc, _ in found]
    assert all(0 <= doc < len(case.docids) for doc in docs), "invalid"
    assert len(set(docs)) == len(docs), "twice"
    assert found == expected, f"seed {seed}"
    for doc, score in found:
        assert abs(score - plain.score(doc, plain.precise)) < 1e-5
    scores = [score for _, score in found]
    seen["decodes"] += 1
    seen[str(dtype)] += 1
    seen["docIDs"] += len(found)
    seen["with equal scores"] += len(set(scores)) < len(scores)
    seen["cut"] += len(found) < len(case.docids)


def test_300_decodes_are_the_plain_ones() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        check_decode(seed, seen)
    assert seen["decodes"] == 300
    assert min(seen.values()) > 40, seen


@pytest.mark.slow
def test_100_000_decodes_are_the_plain_ones() -> None:
    seen: Counter[str] = Counter()
    started = time.perf_counter()
    for seed in range(100_000):
        check_decode(seed, seen)
    print(f"\n{dict(seen)}; {(time.perf_counter() - started) / 60:.1f} minutes")
    assert seen["decodes"] == 100_000
    assert min(seen.values()) > 10_000, seen
