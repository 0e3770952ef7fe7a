"""A model's output layer against a dataset's docIDs: where it is too narrow for the orders that it is asked for.

Dimension letters: V rows of the output layer, n numbers of a hidden vector, S docID tokens (the paper's V_docIDs), C
children of a trie node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stoical.common.arrays import Bools, Floats, Ints
from stoical.common.progress import progress
from stoical.studies.capacity.free_embeddings import positive_side
from stoical.studies.capacity.output_layer import rank
from stoical.trie.prefix_tree import DocIDTrie, build_trie

RIVALS = 256  # tokens that a search for a winning hidden vector begins with, and takes in at a time
BLOCK = 512  # tokens whose logits are computed at once


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """What makes logits out of a hidden vector: `weights` [V, n] and `bias` [V] or None; without weights a shape."""

    hidden: int
    weights: Floats | None = None
    bias: Floats | None = None


@dataclass
class Families:
    """The children of a trie node as tokens, and whether a hidden vector can give them any logits.

    full: rank(E') over all docID tokens, or n + 1 at most where the weights are not known.
    """

    layer: OutputLayer
    full: int
    _known: dict[bytes, bool] = field(default_factory=dict)

    def are_free(self, tokens: Ints) -> bool:
        """rank(E') of the children [C] is C: every distribution over them is possible, and every order."""
        if len(tokens) == 1:
            return True
        if len(tokens) > self.full or self.layer.weights is None:
            return len(tokens) <= self.full
        key = tokens.tobytes()
        if key not in self._known:
            self._known[key] = rank(self.layer.weights[tokens]) == len(tokens)
        return self._known[key]


@dataclass(frozen=True, slots=True)
class TrieCapacity:
    """Of one trie or of many: inner nodes, and those with more children than rank(E'), and those not free at all.

    `tries_bound` counts tries with a node that is not free.
    """

    tries: int
    nodes: int
    largest: int
    median_largest: float
    above_rank: int
    bound: int
    tries_bound: int


def families_of(trie: DocIDTrie) -> list[Ints]:
    """The tokens of the children of every inner node."""
    inner = np.flatnonzero(np.diff(trie.child_start))
    return [trie.token[trie.child_start[node] : trie.child_start[node + 1]] for node in inner]


def trie_capacity(tries: Iterable[Sequence[Sequence[int]]], families: Families) -> TrieCapacity:
    """Look at every node of every trie, given as the token ids of its docIDs."""
    nodes, above, bound, tries_bound = 0, 0, 0, 0
    largest: list[int] = []
    for docids in tries:
        found = families_of(build_trie(docids))
        closed = sum(not families.are_free(tokens) for tokens in found)
        nodes += len(found)
        above += sum(len(tokens) > families.full for tokens in found)
        bound += closed
        tries_bound += closed > 0
        largest.append(max(map(len, found)))
    return TrieCapacity(len(largest), nodes, max(largest), float(np.median(largest)), above, bound, tries_bound)


@dataclass(frozen=True, slots=True)
class ModelCapacity:
    """What a model can write of a dataset's docIDs.

    rank: rank(E') over the docID tokens; of a shape without weights, the most that it can be. corpus: the trie of all
    docIDs; lists: the tries of the queries' lists. dead_among_docids: docID tokens that no hidden vector makes the most
    probable docID token; dead_in_vocabulary: the most probable token. None where the weights are not known.
    """

    hidden: int
    docids: int
    tokens: int
    rank: int
    corpus: TrieCapacity
    lists: TrieCapacity
    dead_among_docids: list[int] | None
    dead_in_vocabulary: list[int] | None


def model_capacity(layer: OutputLayer, lists: Sequence[Sequence[tuple[int, ...]]]) -> ModelCapacity:
    """Measure an output layer on lists of docIDs, given as token ids. Every list holds a docID once."""
    docids = [*dict.fromkeys(ids for docids in lists for ids in docids)]
    tokens = np.unique(np.fromiter((token for ids in docids for token in ids), dtype=np.int64))
    full = min(len(tokens), layer.hidden + 1) if layer.weights is None else rank(layer.weights[tokens])
    families = Families(layer, full)
    dead: tuple[list[int] | None, list[int] | None] = None, None
    if layer.weights is not None:
        bias = layer.bias
        among = dead_tokens(layer.weights[tokens], None if bias is None else bias[tokens], np.arange(len(tokens)))
        alive = np.delete(tokens, among)
        anywhere = [*tokens[among].tolist(), *dead_tokens(layer.weights, bias, alive)]
        dead = tokens[among].tolist(), sorted(anywhere)
    return ModelCapacity(
        hidden=layer.hidden,
        docids=len(docids),
        tokens=len(tokens),
        rank=full,
        corpus=trie_capacity([docids], families),
        lists=trie_capacity(progress(lists, "tries of the lists"), families),
        dead_among_docids=dead[0],
        dead_in_vocabulary=dead[1],
    )


def dead_tokens(weights: Floats, bias: Floats | None, tokens: Ints) -> list[int]:
    """Which of `tokens` no hidden vector gives the greatest logit of all rows, [V, n] and [V].

    Without a bias these are the tokens whose rows lie in the convex hull of the other rows. Grivas et al. (2022) call
    them unargmaxable.
    """
    unsure = tokens[~wins_by_itself(weights, tokens)]
    return [int(token) for token in progress(unsure, "tokens that may be dead") if not can_win(weights, bias, token)]


def wins_by_itself(weights: Floats, tokens: Ints) -> Bools:
    """True for tokens that win where the hidden vector is their own row less the mean row, times a large number.

    That is enough, and settles most tokens of most models at the cost of one matrix product.
    """
    centre = weights.mean(axis=0)
    wins = np.zeros(len(tokens), dtype=bool)
    for start in range(0, len(tokens), BLOCK):
        block = tokens[start : start + BLOCK]
        logits = (weights[block] - centre) @ weights.T
        own = logits[np.arange(len(block)), block].copy()
        logits[np.arange(len(block)), block] = -np.inf
        wins[start : start + BLOCK] = own > logits.max(axis=1) + 1e-9 * np.abs(own)
    return wins


def can_win(weights: Floats, bias: Floats | None, token: int) -> bool:
    """True where some hidden vector gives `token` the greatest logit, strictly.

    A hidden vector that wins against some rivals, or the proof that none does, is one problem of least squares; rivals
    that beat it are taken in until there are none, or until no vector is left.
    """
    rows = np.delete(weights[token] - weights, token, axis=0)
    fixed = np.zeros((0, rows.shape[1]))
    if bias is not None:  # phi e + s b with a positive s is phi / s with the bias as it is
        rows = np.hstack([rows, np.delete(bias[token] - bias, token)[:, None]])
        fixed = np.eye(rows.shape[1])[-1:]
    chosen = np.argsort(rows @ rows.mean(axis=0))[:RIVALS]
    while True:
        vector = positive_side(np.vstack([rows[chosen], fixed]))
        if vector is None:
            return False
        leads = rows @ vector
        leads[chosen] = np.inf
        ahead = np.flatnonzero(leads <= 0)
        if not len(ahead):
            return True
        chosen = np.concatenate([chosen, ahead[np.argsort(leads[ahead])[:RIVALS]]])
