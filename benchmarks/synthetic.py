"""Random queries of a given size, with docIDs that share prefixes as those of a real prompt do."""

from __future__ import annotations

import numpy as np

from stoical.encoding.tokenized import TokenizedQuery

EOS = 2
FIRST_TOKEN = 3


def random_docids(rng: np.random.Generator, count: int, vocab: int) -> list[list[int]]:
    """`count` distinct docIDs of 6 to 8 tokens, EOS included; half of them open with 1 to 3 tokens of an earlier one.

    About a sixth of the tokens is shared: a trie of 5.5 to 6 nodes a docID.
    """
    docids: list[list[int]] = []
    while len(docids) < count:
        ids = rng.integers(FIRST_TOKEN, vocab, size=rng.integers(5, 8)).tolist()
        if docids and rng.random() < 0.5:
            shared = int(rng.integers(1, 4))
            ids[:shared] = docids[rng.integers(len(docids))][:shared]
        if [*ids, EOS] not in docids:
            docids.append([*ids, EOS])
    return docids


def random_query(seed: int, prompt: int, docs: int, vocab: int) -> TokenizedQuery:
    """A query of `prompt` random prompt tokens and `docs` random docIDs."""
    rng = np.random.default_rng(seed)
    docids = random_docids(rng, docs, vocab)
    return TokenizedQuery(
        query_id=f"{prompt}x{docs}",
        prompt_ids=[1, *rng.integers(FIRST_TOKEN, vocab, size=prompt - 1).tolist()],
        docids=[f"docid {place}" for place in range(docs)],
        docid_ids=docids,
        counted=[len(ids) for ids in docids],
        ranks=list(range(1, docs + 1)),
    )
