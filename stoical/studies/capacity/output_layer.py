"""Propositions 3.1 and 3.2: what a model's output layer lets it write, at one token and over a trie.

Dimension letters: V tokens, n numbers of a hidden vector. E [V, n] has the tokens' rows of the output layer (the
paper's E_docIDs), and E' = [E 1] is E with a column of ones.

At one token, tokens are ranked by E phi. There an ARR with hidden vectors of n numbers is a dual encoder with V
documents in n dimensions, and makes T(V, n) of the V! orders. The paper asks for rank(E') = V over all tokens of all
docIDs. Where decoding keeps to a trie, every inner node has a hidden vector of its own and chooses among its children
alone. By the chain rule all distributions over docIDs are then possible if and only if, at every node, rank(E') of the
children is their number; docs/capacity.md has the proof, and that all orders of docIDs ask for the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stoical.common.arrays import Floats
from stoical.studies.capacity.free_embeddings import all_orders, positive_side
from stoical.trie.node_weights import sibling_shares, subtree_sums
from stoical.trie.prefix_tree import build_trie


def augmented(rows: Floats) -> Floats:
    """E' = [E 1]: [V, n + 1]."""
    return np.hstack([rows, np.ones((len(rows), 1))])


def rank(rows: Floats) -> int:
    """The rank of E', by singular values in float64 with numpy's tolerance. All V tokens are free where it is V."""
    return int(np.linalg.matrix_rank(augmented(rows)))


def contradiction(rows: Floats) -> tuple[list[int], list[int]] | None:
    """Two groups of tokens, of which neither can be ranked above the other as a whole; None where rank(E') is V.

    The proof of Proposition 3.1: h with h E' = 0 is positive on the one group and negative on the other.
    """
    if rank(rows) == len(rows):
        return None
    *_, null = np.linalg.svd(augmented(rows).T)
    h = null[-1]
    certain = np.abs(h).max() * 1e-9
    return np.flatnonzero(h > certain).tolist(), np.flatnonzero(h < -certain).tolist()


def can_precede(rows: Floats, first: Sequence[int], last: Sequence[int]) -> bool:
    """True where some hidden vector gives every token of `first` a greater logit than every token of `last`."""
    differences = rows[list(first), None] - rows[None, list(last)]
    return positive_side(differences.reshape(-1, rows.shape[1])) is not None


def own_tokens(docids: Sequence[Sequence[int]]) -> list[list[int]]:
    """The same docIDs with tokens 0, 1, 2, ..., of which every node of the trie has its own."""
    tokens: dict[tuple[int, ...], int] = {}
    prefixes = [[tuple(ids[: end + 1]) for end in range(len(ids))] for ids in docids]
    return [[tokens.setdefault(prefix, len(tokens)) for prefix in each] for each in prefixes]


def orders_over_trie(rows: Floats, docids: Sequence[Sequence[int]]) -> int:
    """How many of the k! orders of k docIDs an ARR with free hidden vectors makes, decoding within their trie.

    rows [V, n] has the output layer, and docIDs are sequences of its tokens. Every inner node gets the hidden vector
    that comes nearest (least squares of logits) to the shares of a target that halves from rank to rank.
    """
    trie, orders = build_trie(docids), np.array(all_orders(len(docids)))
    masses = 0.5 ** np.argsort(orders, axis=1)  # [k!, k]
    mass = np.stack([subtree_sums(trie, each) for each in masses])
    with np.errstate(divide="ignore"):
        wanted = np.log(sibling_shares(trie, mass))
    logprobs = np.zeros_like(wanted)
    for node in np.flatnonzero(np.diff(trie.child_start)):
        children = trie.children(node)
        family = augmented(rows[trie.token[children]])
        logits = wanted[:, children] @ np.linalg.pinv(family).T @ family.T
        logprobs[:, children] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    logprobs = np.hstack([logprobs, np.zeros((len(orders), 1))])  # where the -1 padding of a path leads
    scores = np.take_along_axis(logprobs[:, trie.path].sum(axis=2), orders, axis=1)
    return int((scores[:, :-1] > scores[:, 1:]).all(axis=1).sum())
