"""Shared pieces: a tiny random Mistral, random ragged queries, and no network."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from stoical.encoding.tokenized import TokenizedQuery

if TYPE_CHECKING:
    from stoical.ranker import Ranker

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
VOCAB = 97
EOS = 2


def tiny_model(attention: str = "trie_sdpa", seed: int = 0, **config: object) -> MistralForCausalLM:
    """Two layers, grouped-query attention, all sizes distinct so that a mixed-up dimension cannot go unseen."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": None,
        "initializer_range": 0.2,
        "attn_implementation": attention,
    }
    return MistralForCausalLM(MistralConfig(**(shape | config)))


def random_docids(rng: np.random.Generator, count: int, terminated: bool = True) -> list[list[int]]:
    """`count` distinct docIDs of 1 to 4 tokens out of a few: prefixes are shared, and some docIDs are prefixes."""
    docids: list[list[int]] = []
    while len(docids) < count:
        ids = rng.integers(3, 7, size=rng.integers(1, 5)).tolist() + [EOS] * terminated
        if ids not in docids:
            docids.append(ids)
    return docids


def random_query(
    seed: int,
    docs: int = 6,
    prompt: int = 9,
    terminated: bool = True,
    count_terminator: bool = True,
    negatives: int = 0,
) -> TokenizedQuery:
    rng = np.random.default_rng(seed)
    docids = random_docids(rng, docs + negatives, terminated)
    return TokenizedQuery(
        query_id=f"q{seed}",
        prompt_ids=[1, *rng.integers(3, VOCAB, size=prompt - 1).tolist()],
        docids=[str(ids) for ids in docids],
        docid_ids=docids,
        counted=[len(ids) - (terminated and not count_terminator) for ids in docids],
        ranks=[*range(1, docs + 1), *[docs + 1] * negatives],
        num_negatives=negatives,
    )


def ragged_queries(**kwargs: object) -> list[TokenizedQuery]:
    """Three queries of different prompt length and number of docIDs, one of them a single document."""
    return [random_query(seed, docs, prompt, **kwargs) for seed, docs, prompt in ((1, 6, 9), (2, 1, 4), (3, 11, 13))]


def without_negatives(query: TokenizedQuery) -> TokenizedQuery:
    parts = {name: getattr(query, name)[: query.num_listed] for name in ("docids", "docid_ids", "counted", "ranks")}
    return replace(query, num_negatives=0, **parts)


@pytest.fixture
def model() -> MistralForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps, with its dataset in `data` beside it. To be read, not to be written to."""
    from tests.tiny_run import train_tiny  # late: it imports all of stoical, which most tests do without

    return train_tiny(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def loaded(trained: Path) -> Ranker:
    """The run's ranker. Not to be changed either."""
    from stoical.ranker import Ranker

    return Ranker.from_pretrained(trained, device="cpu")
