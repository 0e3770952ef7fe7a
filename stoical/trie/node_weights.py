"""Rank-aware weights: how much of the loss each trie node carries.

Every variant of SToICaL (Eq. 11) is `-(weight * log p(node | its prefix, prompt)).sum()` over trie nodes; this file
holds the weights. Ranks start at 1; documents may share a rank (ties).

Dimension letters: D docIDs, N trie nodes (root first). All arrays are float64; weights have no unit.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.common.numbers import not_negative
from stoical.common.options import option
from stoical.trie.prefix_tree import DocIDTrie

ItemWeight = Literal["indicator", "fractional", "stepwise"]
TokenTarget = Literal["one_hot", "trie", "every_node"]
Visits = Literal["mass", "uniform", "reach"]

UNLISTED = np.iinfo(np.int64).max  # the rank of negatives: no target ever leads to them


@dataclass
class TargetSettings:
    """Which row of the weight table to train on; the `loss:` section of a recipe.

        TargetSettings()                                                  # next-token prediction on the top docID
        TargetSettings(item="fractional", alpha=2.0)                      # every docID, by 1/r^2
        TargetSettings(token="every_node", beta=2.0, visits="uniform")    # a target at every node of the trie

    `check` raises `ValueError` for settings that do not go together; whatever takes these settings calls it.
    """

    item: ItemWeight = option(
        "indicator", "lambda(r), how much a docID of rank r counts: 1[r = 1], r^-alpha, or (n_q - r + 1) / n_q"
    )
    alpha: float | None = option(None, "of item=fractional")
    token: TokenTarget = option(
        "one_hot",
        "the target at a trie node: one_hot (the docID's own token), trie (shares of mu(r) = r^-beta below it, along "
        "each docID), every_node (the same at every inner node)",
    )
    beta: float | None = option(None, "of token=trie and every_node: mu(r) = r^-beta")
    visits: Visits | None = option(
        None,
        "of token=every_node: how much each inner node counts, by the target's mass, uniformly, or by the model's own "
        "reach",
    )

    def check(self) -> None:
        """Raise `ValueError` where a setting is unknown, missing, or set but without effect."""
        for key, kind in (("item", ItemWeight), ("token", TokenTarget), ("visits", Visits)):
            word, words = getattr(self, key), typing.get_args(kind)
            if word not in words and not (key == "visits" and word is None):
                raise ValueError(f"loss.{key}={word} must be one of {', '.join(words)}")
        needs = {
            "alpha": (self.alpha, self.item == "fractional", "loss.item=fractional"),
            "beta": (self.beta, self.token != "one_hot", "loss.token=trie or every_node"),
            "visits": (self.visits, self.token == "every_node", "loss.token=every_node"),
        }
        for key, (value, used, user) in needs.items():
            if used and value is None:
                raise ValueError(f"loss.{key} must be set with {user}")
            if not used and value is not None:
                raise ValueError(f"loss.{key}={value} has no effect: only {user} reads it; remove one of the two")
            if isinstance(value, int | float):
                not_negative(f"loss.{key}", value)
        if self.token == "every_node" and self.item != "indicator":
            raise ValueError(
                f"loss.item={self.item} conflicts with loss.token=every_node, whose weights come from loss.beta and "
                "loss.visits alone; remove one of the two"
            )


def node_weights(trie: DocIDTrie, ranks: Ints, settings: TargetSettings, counts: Floats | None = None) -> Floats:
    """[N] the weight of every trie node under `settings`, for docIDs of these ranks [D]; 0 at the root.

    counts [D]: how much each docID counts, which multiplies its lambda and its mu: 2 is as if it were there twice.
    """
    each = np.ones(len(ranks)) if counts is None else counts
    if settings.token == "every_node":
        assert settings.beta is not None and settings.visits is not None
        return every_node_weights(trie, each * leaf_scores(ranks, settings.beta), settings.visits)
    lam = each * item_weights(ranks, settings.item, settings.alpha or 0.0)
    if settings.token == "one_hot":
        return one_hot_weights(trie, lam)
    assert settings.beta is not None
    return trie_weights(trie, ranks, lam, each * leaf_scores(ranks, settings.beta))


def num_points(ranks: Ints, settings: TargetSettings, counts: Floats | None = None) -> float:
    """How many (query, docID, rank) points of Eq. 11 carry loss, the docIDs with lambda(r) > 0, or their `counts`."""
    each = np.ones(len(ranks)) if counts is None else counts
    if settings.token == "every_node":
        return float(each.sum())
    return float(each[item_weights(ranks, settings.item, settings.alpha or 0.0) > 0].sum())


def item_weights(ranks: Ints, kind: ItemWeight, alpha: float = 1.0) -> Floats:
    """lambda(r) of each docID, [D] (section 4.2): 1[r = 1], r^-alpha or (n_q - r + 1) / n_q."""
    if kind == "indicator":
        return (ranks == 1).astype(np.float64)
    if kind == "fractional":
        return leaf_scores(ranks, alpha)
    return (len(ranks) - ranks.astype(np.float64) + 1) / len(ranks)


def leaf_scores(ranks: Ints, beta: float) -> Floats:
    """mu(r) = r^-beta of each docID, [D] (section 4.3)."""
    return ranks.astype(np.float64) ** -beta


def doc_targets(ranks: Ints, settings: TargetSettings) -> Floats:
    """[D] the distribution over docIDs that `settings` train towards: mu(r), or lambda(r) where targets are one-hot.

    The product of `node_targets` along each docID's path, where terminators end all of them.
    """
    masses = _docid_masses(ranks, settings)
    return masses / masses.sum()


def _docid_masses(ranks: Ints, settings: TargetSettings) -> Floats:
    """[D] mu(r) of each docID, or lambda(r) where targets are one-hot."""
    if settings.beta is None:
        return item_weights(ranks, settings.item, settings.alpha or 0.0)
    return leaf_scores(ranks, settings.beta)


def best_ranks(trie: DocIDTrie, ranks: Ints) -> Ints:
    """[N] the best (smallest) of `ranks` [D] among the docIDs that end at or below each node."""
    below = trie.path >= 0
    best = np.full(trie.num_nodes, ranks.min())
    best[1:] = UNLISTED
    np.minimum.at(best, trie.path[below], np.repeat(ranks, below.sum(axis=1)))
    return best


def node_targets(trie: DocIDTrie, ranks: Ints, settings: TargetSettings, counts: Floats | None = None) -> Floats:
    """[N] each node's share of a rank-aware target at its parent, whether `settings` train that parent or not.

    m(n) / m(parent(n)), where a docID's mass is mu(r) times its `counts`, or lambda(r) if targets are one-hot (which is
    this target at every node, by mass: `every_node_weights`). Where siblings have no mass, as next-token prediction
    leaves all but one path, the target is the one that leads to the best-ranked docID. 0 at the root.
    """
    masses = _docid_masses(ranks, settings)
    mass = subtree_sums(trie, masses if counts is None else counts * masses)
    shares = sibling_shares(trie, mass)
    massless = mass[trie.parent] == 0
    if massless.any():
        best = best_ranks(trie, ranks)
        families = np.minimum.reduceat(np.append(best, 0), trie.child_start[:-1])
        leads = best == families[trie.parent]
        first = sibling_shares(trie, leads.astype(np.float64))
        shares = np.where(massless, first, shares)
    return shares


def subtree_sums(trie: DocIDTrie, values: Floats) -> Floats:
    """[N] the sum of `values` [D] over the docIDs that end at or below each node: m(n) when the values are mu(r)."""
    below = trie.path >= 0
    shares = np.repeat(values, below.sum(axis=1))
    sums = np.bincount(trie.path[below], weights=shares, minlength=trie.num_nodes).astype(np.float64)
    sums[0] = values.sum()
    return sums


def sibling_shares(trie: DocIDTrie, mass: Floats) -> Floats:
    """[..., N] each node's share of `mass` [..., N] among its siblings: the target y of section 4.3; 0 at the root.

    This is m(n) / m(parent(n)); where a docID ends at the parent itself (no terminator token), that docID's own mass
    is left out, so that the shares of the valid next tokens still sum to 1. Nodes whose siblings all have mass 0 get 0.
    """
    padded = np.concatenate([mass, np.zeros((*mass.shape[:-1], 1))], axis=-1)  # childless last nodes start at N
    families = np.add.reduceat(padded, trie.child_start[:-1], axis=-1)
    shares = np.divide(mass, families[..., trie.parent], out=np.zeros_like(mass), where=mass > 0)
    shares[..., 0] = 0.0
    return shares


def one_hot_weights(trie: DocIDTrie, lam: Floats) -> Floats:
    """[N] item-level reweighting with one-hot targets (Eq. 11 with Eq. 12): sum of lambda(r) over docIDs under n.

    Next-token prediction on the top docID is the indicator lambda.
    """
    weights = subtree_sums(trie, lam)
    weights[0] = 0.0
    return weights


def trie_weights(trie: DocIDTrie, ranks: Ints, lam: Floats, mu: Floats) -> Floats:
    """[N] trie targets along the path of each docID of rank r, weighted by lambda(r) (section 4.3, Appendix D).

    The targets for rank r count only the docIDs of rank >= r. With the indicator lambda only the top docID's path
    remains, and this is the token-level loss of Table 1. Dimension letters: R docIDs with lambda(r) > 0, S nodes that
    have siblings, F families of these.
    """
    weights = one_hot_weights(trie, np.where(mu > 0, lam, 0.0))  # an only child has all of the mass that goes on
    trained, some = lam > 0, 1 + np.flatnonzero(np.diff(trie.child_start)[trie.parent[1:]] > 1)
    if not len(some):
        return weights
    opens = np.diff(trie.parent[some], prepend=-1) > 0
    first, family = np.flatnonzero(opens), opens.cumsum() - 1
    on_path = np.zeros((len(ranks), trie.num_nodes), dtype=bool)
    on_path[np.arange(len(ranks))[:, None], trie.path.clip(min=0)] = True
    below = on_path[:, some]  # [D, S]
    mass = _tail_sums(below * mu[:, None], ranks)[trained]  # [R, S]
    goes_on = np.logical_or.reduceat(below[trained], first, axis=1)  # a docID predicts nothing where it ends
    whole = np.add.reduceat(mass, first, axis=1)  # [R, F]
    scale = np.divide(lam[trained, None], whole, out=np.zeros_like(whole), where=goes_on & (whole > 0))
    weights[some] = (scale[:, family] * mass).sum(axis=0)
    return weights


def _tail_sums(values: Floats, ranks: Ints) -> Floats:
    """[D, N] for each docID, `values` [D, N] summed over the docIDs of its rank or a lower one (r or more)."""
    order = np.argsort(-ranks)
    sums = values[order].cumsum(axis=0)
    counted = np.searchsorted(-ranks[order], -ranks, side="right")  # how many docIDs rank r's sum holds
    return sums[counted - 1]


def every_node_weights(trie: DocIDTrie, mu: Floats, visits: Visits) -> Floats:
    """[N] a target at every inner node u: v(u) * m(n) / m(u), not only on the top docID's path.

    `mass`: v(u) = m(u), which makes it `one_hot_weights` with lambda = mu. `uniform`: v(u) = 1. `reach`: the bare
    target, which the loss multiplies by the model's own probability of visiting u (`decoding.walks.reach`).
    """
    mass = subtree_sums(trie, mu)
    if visits == "mass":
        mass[0] = 0.0
        return mass
    return sibling_shares(trie, mass)
