"""Figure 2 of the SToICaL paper: its toy prefix tree, with one-hot targets and targets marginalised over the tree.

Five docIDs of ranks 1 to 5, d_1 "dog" first, without a terminator, as the paper writes them. mu(r) = 1/r^beta is the
score of a docID, m(n) its sum over the docIDs at or below node n, and a target is a child's share of its parent's. The
numbers are the library's own functions'.

Dimension letters: D docIDs, N trie nodes (root first).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Floats
from stoical.reporting.figure import plt, save
from stoical.trie.node_weights import item_weights, leaf_scores, one_hot_weights, sibling_shares, subtree_sums
from stoical.trie.prefix_tree import DocIDTrie, build_trie

DOCIDS = (("d", "og"), ("c", "at"), ("c", "at", "s"), ("d", "eer"), ("f", "ish"))  # ranks 1 to 5
BETA = 1.0
SMALL: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
TOKENS = sorted({token for docid in DOCIDS for token in docid})


@dataclass(frozen=True, slots=True)
class Toy:
    """The tree, and for every node [N] its token, m(n), and its share of the target at its parent, both ways."""

    trie: DocIDTrie
    tokens: list[str]
    mass: Floats
    one_hot: Floats
    marginal: Floats

    def targets(self, shares: Floats, node: int) -> dict[str, float]:
        """The target after the prefix that `node` stands for: token to share, the heavier branch first."""
        children = sorted(self.trie.children(node).tolist(), key=lambda child: -self.mass[child])
        return {self.tokens[child]: float(shares[child]) for child in children}

    @property
    def second(self) -> int:
        """The node at which t = 2 starts under teacher forcing: d_1's first token."""
        return int(self.trie.path[0, 0])


def toy(beta: float = BETA) -> Toy:
    """The paper's example. One-hot targets are d_1's, of lambda(r) = 1[r = 1]."""
    trie = build_trie([[TOKENS.index(token) for token in docid] for docid in DOCIDS])
    ranks = np.arange(1, len(DOCIDS) + 1)
    mass = subtree_sums(trie, leaf_scores(ranks, beta))
    one_hot = one_hot_weights(trie, item_weights(ranks, "indicator"))
    names = ["ε", *(TOKENS[token] for token in trie.token[1:])]
    return Toy(trie, names, mass, one_hot, sibling_shares(trie, mass))


def plot(output: Path, beta: float = BETA) -> None:
    """Write the figure: (a) the tree, (b) one-hot targets at t = 1 and 2, (c) marginalised ones."""
    found = toy(beta)
    figure = plt.figure(figsize=(11, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.7, 1, 1))
    _draw_tree(figure.add_subplot(grid[:, 0]), found, beta)
    steps = ((0, "t = 1, after ε"), (found.second, "t = 2, after ε, d"))
    for column, (title, shares) in enumerate((("(b) one-hot", found.one_hot), ("(c) marginalised", found.marginal))):
        for line, (node, step) in enumerate(steps):
            axis = figure.add_subplot(grid[line, column + 1])
            _draw_target(axis, found.targets(shares, node), f"{title}: {step}")
    save(figure, output)


def _draw_target(axis: plt.Axes, target: dict[str, float], title: str) -> None:
    bars = axis.bar([*target], [*target.values()], color="0.75", edgecolor="black", width=0.6)
    axis.bar_label(bars, fmt="%.3g", padding=2)
    axis.set(ylim=(0, 1.18), xlim=(-0.6, 2.6), ylabel="target probability", xlabel="next token")
    axis.set_title(title, fontsize=10)


def _draw_tree(axis: plt.Axes, found: Toy, beta: float) -> None:
    """Solid borders are docID nodes, dashed ones are not; m(n) is written below every node."""
    trie, rank_of = found.trie, {int(leaf): place + 1 for place, leaf in enumerate(found.trie.leaf)}
    row = _rows(trie, found.mass)
    for node in range(trie.num_nodes):
        x, y = float(trie.depth[node]), -row[node]
        if node:
            axis.plot([x - 1, x], [-row[trie.parent[node]], y], color="0.4", linewidth=1, zorder=0)
        border = "solid" if node in rank_of else "dashed"
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "black", "linestyle": border}
        axis.text(x, y, found.tokens[node], ha="center", va="center", fontsize=11, bbox=box)
        axis.text(
            x, y - 0.36, f"m = {found.mass[node]:.3g}", ha="center", va="center", fontsize=8, backgroundcolor="white"
        )
        if node in rank_of:
            name = "".join(DOCIDS[rank_of[node] - 1])
            axis.text(x, y + 0.37, f"rank {rank_of[node]}: {name}", **SMALL)
    axis.set(xlim=(-0.5, trie.depth.max() + 0.6), ylim=(-row.max() - 0.6, 0.6))
    axis.set_title("(a) prefix tree, μ(r) = 1/r" + (f"^{beta:g}" if beta != 1 else ""), fontsize=10)
    axis.axis("off")


def _rows(trie: DocIDTrie, mass: Floats) -> Floats:
    """[N] vertical places: leaves at 0, 1, ... from the top, the heavier sibling first, parents amid their children."""
    row, count, stack = np.zeros(trie.num_nodes), 0, [0]
    while stack:
        node = stack.pop()
        children = sorted(trie.children(node).tolist(), key=lambda child: mass[child])
        stack += children
        if not children:
            row[node], count = count, count + 1
    for node in range(trie.num_nodes - 1, -1, -1):
        if len(trie.children(node)):
            row[node] = row[trie.children(node)].mean()
    return row
