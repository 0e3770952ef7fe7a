"""Negatives for training: docIDs of other queries that a query's own are compared with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from stoical.data.rows import RankingRow


@dataclass(frozen=True, slots=True)
class NegativeSampler:
    """Draws `count` negatives for a query by seed, epoch and query id alone: the same in any process, worker or resume.

    docids: the distinct docIDs of the training split (`RankingDataset.docids`). What is drawn is not known to be
    irrelevant, only not to be listed for the query.
    """

    docids: Sequence[str]
    count: int
    seed: int

    def draw(self, row: RankingRow, epoch: int) -> list[str]:
        """The row's own negatives, or a sample of them; where they are fewer than `count`, docIDs drawn uniformly.

        None is among the row's documents, those that truncation drops included. Fewer than `count` where the split
        has no more.
        """
        rng = random.Random(f"{self.seed}/{epoch}/{row.query_id}/negatives")
        own = sorted(doc.docid for doc in row.negatives)  # the order of the file says nothing
        if len(own) >= self.count:
            return rng.sample(own, self.count)
        known, missing = {*own, *(doc.docid for doc in row.docs)}, self.count - len(own)
        places = rng.sample(range(len(self.docids)), min(len(self.docids), missing + len(known)))
        drawn = [self.docids[place] for place in places if self.docids[place] not in known]
        return own + drawn[:missing]
