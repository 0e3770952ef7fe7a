"""Score a test split with a lookup encoder: the metrics, and the files, of every other evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model

from stoical.baselines.encoders import Encoder, new_encoder
from stoical.baselines.items import Items
from stoical.common.progress import progress
from stoical.config.recipe import Recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.rows import RankingRow
from stoical.evaluation.evaluator import sample
from stoical.evaluation.metrics import JudgedQuery, mean_metrics, near_ties, query_metrics
from stoical.evaluation.result import Evaluation, QueryResult

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class EncoderEvaluator:
    """Scores the documents and negatives of a split's queries; with `num_queries` of the same sample as `Evaluator`."""

    split: RankingDataset
    items: Items
    recall_at: Sequence[int]
    num_queries: int | None = None

    def __call__(self, encoder: Encoder, shown: bool = False) -> Evaluation:
        """Evaluate. Raises `ValueError` where the table lacks an item of the split."""
        picked = sample(len(self.split), self.num_queries)
        self.items.check_known(self.split, picked)
        rows = [self._result(encoder, self.split[index]) for index in progress(picked, "evaluating", shown)]
        ties = sum(row.near_ties for row in rows)
        means = mean_metrics(row.metrics for row in rows)
        counts = {"num_queries": len(rows), "dropped_docs": 0, **means, "near_ties": ties}
        scored = {"mode": encoder.settings.kind, "score": encoder.settings.score}
        return Evaluation(counts, {**scored, "terminator": "none", "count_terminator": False}, rows)

    @torch.no_grad()
    def _result(self, encoder: Encoder, row: RankingRow) -> QueryResult:
        docids = [doc.docid for doc in (*row.docs, *row.negatives)]
        docs = self.items.places(docids)
        scores = encoder(self.items.places([row.query]).expand_as(docs), docs).double().numpy()
        ranks = np.array([*row.ranks, *[len(row.docs) + 1] * len(row.negatives)])
        return QueryResult(
            query_id=row.query_id,
            mode=encoder.settings.kind,
            metrics=query_metrics(JudgedQuery(scores, ranks, len(row.negatives)), self.recall_at),
            docids=docids,
            ranks=ranks.tolist(),
            scores=scores.tolist(),
            docid_tokens=[1] * len(docids),  # an item is looked up whole
            num_negatives=len(row.negatives),
            dropped_docs=0,
            near_ties=near_ties(scores),
        )


def load_encoder(recipe: Recipe, checkpoint: Path) -> tuple[Encoder, Items]:
    """The encoder that a run saved, with the items of its rows."""
    assert recipe.encoder is not None
    items = Items.load(checkpoint)
    encoder = new_encoder(len(items), recipe.encoder, recipe.seed)
    load_model(encoder, checkpoint / WEIGHTS)
    return encoder, items


def evaluate_encoder(
    recipe: Recipe, checkpoint: Path | None, num_queries: int | None, shown: bool = False
) -> Evaluation:
    """Score the recipe's test split with a checkpoint, or without one with the recipe's untrained encoder."""
    assert recipe.encoder is not None
    test = load_split(recipe.data.path, "test")
    if checkpoint is not None:
        encoder, items = load_encoder(recipe, checkpoint)
    else:
        items = Items.of([load_split(recipe.data.path, "train"), test])
        encoder = new_encoder(len(items), recipe.encoder, recipe.seed)
    return EncoderEvaluator(test, items, recipe.eval.recall_at, num_queries)(encoder, shown)
