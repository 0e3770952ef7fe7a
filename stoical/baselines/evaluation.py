"""Score a test split with a lookup encoder: the metrics, and the files, of every other evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model

from stoical.baselines.encoders import Encoder, is_finite, new_encoder
from stoical.baselines.items import Items
from stoical.build.evaluator import asked_of, grading_of
from stoical.common.progress import progress
from stoical.config.recipe import Recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.rows import RankingRow
from stoical.evaluation.evaluator import grading_words, sample
from stoical.evaluation.grading import Grading, as_grades
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import Metric, mean_metrics, query_metrics
from stoical.evaluation.paper import near_ties
from stoical.evaluation.references import INPUT, reference_rows
from stoical.evaluation.result import Evaluation, QueryResult
from stoical.models.weight_files import check_floats
from stoical.runs.checkpoints import ITEMS_FILE

WEIGHTS = "model.safetensors"
NO_TOKENS: dict[str, str | bool | float] = {"terminator": "none", "count_terminator": False}


@dataclass(frozen=True, slots=True)
class EncoderEvaluator:
    """Scores the documents and negatives of a split's queries; with `num_queries` of the same sample as `Evaluator`."""

    split: RankingDataset
    items: Items
    recall_at: Sequence[int]
    asked: Sequence[Metric]
    grading: Grading
    num_queries: int | None

    @classmethod
    def of(cls, recipe: Recipe, test: RankingDataset, items: Items, num_queries: int | None) -> EncoderEvaluator:
        """As the recipe's eval section says. Raises `ValueError` where a metric needs grades that the split lacks."""
        return cls(test, items, recipe.eval.recall_at, asked_of(recipe, test), grading_of(recipe), num_queries)

    def __call__(self, encoder: Encoder, shown: bool = False) -> Evaluation:
        """Evaluate. Raises `ValueError` where the table lacks an item of the split."""
        picked = sample(len(self.split), self.num_queries)
        self.items.check_known(self.split, picked)
        rows = [self._result(encoder, self.split[index]) for index in progress(picked, "evaluating", shown)]
        ties = sum(row.near_ties for row in rows)
        means = mean_metrics(row.metrics for row in rows)
        counts = {"num_queries": len(rows), "dropped_docs": 0, **means, "near_ties": ties}
        scored = {"mode": encoder.settings.kind, "score": encoder.settings.score} | NO_TOKENS
        return Evaluation(counts, scored | grading_words(self.asked, self.grading), rows)

    @torch.no_grad()
    def _result(self, encoder: Encoder, row: RankingRow) -> QueryResult:
        docids = [doc.docid for doc in (*row.docs, *row.negatives)]
        docs = self.items.places(docids)
        scores = encoder(self.items.places([row.query]).expand_as(docs), docs).double().numpy()
        grades = [doc.grade for doc in (*row.docs, *row.negatives)]
        ranks = np.array([*row.ranks, *[len(row.docs) + 1] * len(row.negatives)])
        judged = JudgedQuery(scores, ranks, len(row.negatives), None, as_grades(grades), self.grading)
        return QueryResult(
            query_id=row.query_id,
            mode=encoder.settings.kind,
            metrics=query_metrics(judged, self.recall_at, self.asked),
            docids=docids,
            ranks=ranks.tolist(),
            scores=scores.tolist(),
            docid_tokens=[1] * len(docids),  # an item is looked up whole
            num_negatives=len(row.negatives),
            dropped_docs=0,
            near_ties=near_ties(scores),
            grades=None if judged.grades is None else grades,
        )


def load_encoder(recipe: Recipe, checkpoint: Path) -> tuple[Encoder, Items]:
    """The encoder that a run saved, with the items of its rows.

    Raises `ValueError` where its weights are missing, damaged, not finite, or of another table than its items.
    """
    assert recipe.encoder is not None
    items, path = Items.load(checkpoint), checkpoint / WEIGHTS
    encoder = new_encoder(len(items), recipe.encoder, recipe.seed)
    check_floats(path)
    try:
        load_model(encoder, path)
    except RuntimeError as error:  # of several lines, the last about a tensor
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit {ITEMS_FILE} and recipe.yaml beside it: {reason}") from error
    if not is_finite(encoder):
        raise ValueError(f"{path} holds numbers that are not finite; its weights are broken")
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
    evaluator = EncoderEvaluator.of(recipe, test, items, num_queries)
    evaluation = evaluator(encoder, shown)
    references = reference_rows(
        evaluation.rows, test, recipe.seed, recipe.eval.recall_at, evaluator.asked, evaluator.grading, shown
    )
    orders = {name: found for name, found in references.metrics.items() if name != INPUT}  # there is no prompt
    return replace(evaluation, references=replace(references, metrics=orders))
