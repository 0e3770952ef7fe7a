"""The docIDs of one list as a drawn trie, with ranks and the loss's weights.

Dimension letters: D docIDs, N nodes of the token trie (root first), S drawn nodes (root first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from transformers import PreTrainedTokenizerBase

from stoical.common.arrays import Floats, Ints
from stoical.reporting.figure import plt, save
from stoical.trie.node_weights import leaf_scores, subtree_sums
from stoical.trie.prefix_tree import DocIDTrie

INCHES_PER_DOCID = 0.17
LABEL_LENGTH = 50  # characters of a docID and its text
SHOWN_WEIGHT = 0.005  # smaller ones are drawn, but not written


@dataclass(frozen=True, slots=True)
class DrawnTrie:
    """Where the nodes of a trie stand once chains without a branch are one edge.

    node [S] is the trie's node that a drawn one ends at; parent [S] an index into S (the root is its own); first [S]
    the trie's node that its edge begins with, whose weight is the branch's; row [S] the vertical place: docIDs are at
    0, 1, ... from the top, an inner node is midway between its first and last child. column [S] is the drawn depth.
    """

    node: Ints
    parent: Ints
    first: Ints
    row: Floats
    column: Ints


def lay_out(trie: DocIDTrie, ranks: Ints) -> DrawnTrie:
    """Places of all nodes; of siblings the one whose docIDs rank best (by the sum of 1/r^2) is on top."""
    mass = subtree_sums(trie, leaf_scores(ranks, 2.0))
    ends = set(trie.leaf.tolist())
    drawn: list[tuple[int, int, int, int]] = []  # node, parent, first, column; every parent before its children
    stack = [(0, 0, 0, 0)]
    while stack:
        node, parent, first, column = stack.pop()
        while node not in ends and len(trie.children(node)) == 1:
            node = int(trie.children(node)[0])
        place = len(drawn)
        drawn.append((node, parent, first, column))
        children = sorted(trie.children(node).tolist(), key=lambda child: mass[child])
        stack += [(child, place, child, column + 1) for child in children]
    nodes, parents, firsts, columns = np.array(drawn, dtype=np.int64).T
    return DrawnTrie(nodes, parents, firsts, _rows(parents, [node in ends for node in nodes.tolist()]), columns)


def _rows(parent: Ints, ends: Sequence[bool]) -> Floats:
    """[S] rows of depth-first nodes: docIDs count from the top; a docID that is a prefix of others keeps its own."""
    row = np.cumsum(ends) - 1.0
    for place in range(len(parent) - 1, -1, -1):
        children = np.flatnonzero(parent[place + 1 :] == place) + place + 1
        if not ends[place]:
            row[place] = (row[children[0]] + row[children[-1]]) / 2
    return row


def prefixes(trie: DocIDTrie, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """[N] the text that leads to each node; the terminator writes nothing."""
    ids: list[list[int]] = [[]]
    for token, parent in zip(trie.token[1:].tolist(), trie.parent[1:].tolist(), strict=True):
        ids.append([*ids[parent], token])
    return [str(tokenizer.decode(path, skip_special_tokens=True)) for path in ids]


def plot_trie(
    trie: DocIDTrie,
    weights: Floats,
    ranks: Ints,
    texts: Sequence[str],
    labels: Sequence[str],
    title: str,
    output: Path,
) -> None:
    """Draw to `output`; `weights` [N] colour the branches, `texts` [N] are `prefixes`, `labels` [D] follow `ranks`."""
    drawn = lay_out(trie, ranks)
    width = int(drawn.column.max()) + 0.9
    figure, axis = plt.subplots(figsize=(4.2 + width, 1 + INCHES_PER_DOCID * len(ranks)), layout="constrained")
    axis.text(0.5, drawn.row[0], texts[drawn.node[0]], ha="right", va="center", fontsize=7, family="monospace")
    for place in range(1, len(drawn.node)):
        above = drawn.parent[place]
        written = texts[drawn.node[place]][len(texts[drawn.node[above]]) :].strip() or "(end)"
        _draw_branch(axis, drawn, place, float(weights[drawn.first[place]]), written)
    column, row = (dict(zip(drawn.node.tolist(), values, strict=True)) for values in (drawn.column, drawn.row))
    for doc, leaf in enumerate(trie.leaf.tolist()):
        axis.plot([column[leaf] + 0.75, width], [row[leaf]] * 2, color="0.9", linewidth=0.5, zorder=0)
        axis.text(width, row[leaf], f"{ranks[doc]:>4}  {labels[doc]}", va="center", fontsize=7, family="monospace")
    axis.text(width, -1, "rank", va="center", fontsize=7, family="monospace")
    axis.set(xlim=(0.3, width + 3.5), ylim=(len(ranks), -1.5))
    axis.set_title(title, fontsize=9, loc="left")
    axis.axis("off")
    save(figure, output)


def _draw_branch(axis: Axes, drawn: DrawnTrie, place: int, weight: float, written: str) -> None:
    """An elbow from the parent, with its text; red, thicker and with its weight in numbers where the loss has one."""
    column, row, above = int(drawn.column[place]), drawn.row[place], drawn.row[drawn.parent[place]]
    color, linewidth, order = ("tab:red", 0.6 + 1.6 * min(weight, 1.0), 2) if weight > 0 else ("0.7", 0.6, 1)
    axis.plot([column - 0.4, column - 0.4, column], [above, row, row], color=color, linewidth=linewidth, zorder=order)
    axis.text(column + 0.03, row, written, va="center", fontsize=7, family="monospace")
    if weight >= SHOWN_WEIGHT:
        axis.text(column - 0.02, row, f"{weight:.2g}", ha="right", va="bottom", fontsize=5.5, color="tab:red")
