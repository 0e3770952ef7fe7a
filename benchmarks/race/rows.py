"""Training rows of one docID each, as trainers of language models take them: prompt, docID, and how much it counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.race.course import Start
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenized import TokenizedQuery
from stoical.trie.node_weights import item_weights

DRAWS = 4  # rows that are drawn for every query and order of its documents


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and a docID, as token ids, and lambda(r) of the docID's rank r."""

    prompt: list[int]
    docid: list[int]
    weight: float

    @property
    def input_ids(self) -> list[int]:
        """Prompt and docID, one after the other."""
        return [*self.prompt, *self.docid]

    @property
    def labels(self) -> list[int]:
        """The docID's tokens where they stand, -100 elsewhere."""
        return [*[-100] * len(self.prompt), *self.docid]


def orders(start: Start) -> int:
    """How many orders of a query's documents stoical's run shows: as many as it makes epochs, begun ones too."""
    seen = start.recipe.training["max_steps"] * start.recipe.global_batch_size
    return -(-seen // len(start.train))


def queries(start: Start) -> Iterator[list[TokenizedQuery]]:
    """Every order in turn: all training queries in it."""
    dataset = EncodedDataset(start.train, start.encoder)
    for epoch in range(orders(start)):
        dataset.set_epoch(epoch)
        yield [dataset[index] for index in range(len(dataset))]


def weights(start: Start, query: TokenizedQuery) -> np.ndarray:
    """[D] lambda(r) of the query's docIDs, as the recipe says."""
    return item_weights(np.array(query.ranks), start.recipe.loss.item, start.recipe.loss.alpha or 0.0)


def all_rows(start: Start) -> list[Row]:
    """Every docID of every query once, weighted. The rows of a query show different orders, as far as there are."""
    count, rows = orders(start), []
    for epoch, found in enumerate(queries(start)):
        for query in found:
            lam, prompt = weights(start, query), list(query.prompt_ids)
            for place in range(epoch, len(query.docids), count):
                rows.append(Row(prompt, list(query.docid_ids[place]), float(lam[place])))
    return rows


def top_rows(start: Start) -> list[Row]:
    """The top docID of every query, once an order."""
    return [Row(list(query.prompt_ids), list(query.docid_ids[0]), 1.0) for found in queries(start) for query in found]


def drawn_rows(start: Start) -> list[Row]:
    """`DRAWS` docIDs for every query and order, drawn with probabilities in proportion to lambda(r), each counting 1.

    In expectation that is every docID repeated in proportion to lambda(r), what whole repetitions come near to alone.
    """
    random, rows = np.random.default_rng(start.recipe.seed), []
    for found in queries(start):
        for query in found:
            lam, prompt = weights(start, query), list(query.prompt_ids)
            for place in random.choice(len(lam), DRAWS, p=lam / lam.sum()):
                rows.append(Row(prompt, list(query.docid_ids[place]), 1.0))
    return rows
