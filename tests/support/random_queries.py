"""Random queries of several lengths, out of a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stoical.encoding.tokenized import TokenizedQuery
from tests.support.tiny_model import EOS, VOCAB


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
    return replace(query, num_negatives=0, **parts, grades=query.grades[: query.num_listed])
