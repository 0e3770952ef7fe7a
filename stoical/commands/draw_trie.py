"""Draw the docIDs of one query as a trie, with ranks and the loss's weights, and write the prompt that holds them.

  stoical draw-trie recipe=esci_beta2 [query=ID] [output=DIR] [key=value ...]

Writes trie.png and prompt.txt, the rendered prompt, and prints how many tokens they have. No model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoical.commands.shell import Command, Given
from stoical.common.arrays import Floats
from stoical.common.files import check_writable
from stoical.common.options import option
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.files import check_dataset
from stoical.data.rows import RankingRow
from stoical.encoding.packing import doc_counts
from stoical.trie.node_weights import node_weights
from stoical.trie.prefix_tree import build_trie


def find_row(rows: RankingDataset, query_id: str | None) -> RankingRow:
    """The row of that query; the first if None. Raises `ValueError` where there is none."""
    if query_id is None:
        return rows[0]
    found = (row for row in (rows[index] for index in range(len(rows))) if row.query_id == query_id)
    row = next(found, None)
    if row is None:
        raise ValueError(f"query={query_id}: {rows.name} has no query of that id")
    return row


def draw(recipe: Recipe, query_id: str | None, output: Path) -> str:
    """Write trie.png and prompt.txt to `output`; what they hold, in one line."""
    from stoical.build.encoder import build_encoder, build_tokenizer
    from stoical.reporting.draw_trie import LABEL_LENGTH, plot_trie, prefixes

    tokenizer = build_tokenizer(recipe)
    row = find_row(load_split(recipe.data.path, "train"), query_id)
    encoder = build_encoder(recipe, tokenizer)
    query = encoder.encode(row)
    ranks = np.array(query.ranks)
    trie = build_trie(query.docid_ids)
    held = (
        f"{row.query!r}: {len(query.prompt_ids):,} prompt tokens, {len(ranks)} docIDs, {trie.num_nodes - 1:,} trie "
        f"nodes, {query.num_dropped} documents dropped by truncation"
    )
    by_docid = {doc.docid: doc for doc in row.docs}
    docs = [by_docid[docid] for docid in query.docids]
    labels = [f"{doc.docid} {doc.text or ''}"[:LABEL_LENGTH] for doc in docs]
    if recipe.loss.unweighted:
        held += f";\n{recipe.loss.unweighted}"
        weights: Floats = np.zeros(trie.num_nodes)
    else:
        weights = query.weight * node_weights(trie, ranks, recipe.loss, doc_counts(query))
    plot_trie(trie, weights, ranks, prefixes(trie, tokenizer), labels, held, output / "trie.png")
    (output / "prompt.txt").write_text(encoder.render(row, docs, epoch=0) + "\n", encoding="utf-8")
    return held.replace("\n", " ")


@dataclass
class DrawOptions:
    """What `stoical draw-trie` takes beside a recipe's settings."""

    query: str | None = option(None, "the query_id of a training query (null: the first)")
    output: str = option("runs/trie", "the directory to write trie.png and prompt.txt to")


def run(given: Given) -> None:
    """Draw, and say what was drawn."""
    recipe = load_recipe(*(f"{key}={value}" for key, value in given.settings.items()))
    check_dataset(recipe.data.path)
    check_writable(Path(given.options.output))
    print(draw(recipe, given.options.query, Path(given.options.output)))
    print(f"written to {given.options.output}")


main = Command(str(__doc__), run, DrawOptions, settings=True)
