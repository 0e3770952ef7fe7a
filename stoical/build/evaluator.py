"""A recipe to the evaluator of its test split, and what it is compared with."""

from __future__ import annotations

from stoical.config.recipe import Recipe
from stoical.data.dataset import RankingDataset
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.encoding.tokenization import pad_id
from stoical.evaluation.evaluator import Evaluator
from stoical.evaluation.grading import Gains, Grading, check_grades
from stoical.evaluation.metrics import Metric, asked_metrics


def build_evaluator(recipe: Recipe, test: RankingDataset, encoder: QueryEncoder, num_queries: int | None) -> Evaluator:
    """Scoring of the test split as the recipe's eval section says, negatives included.

    Raises `ValueError` where a metric needs grades that the split does not have, or that have no gain, and for shuffles
    of a prompt without documents.
    """
    asked, grading = asked_of(recipe, test), grading_of(recipe)
    if recipe.eval.shuffles > 1 and not encoder.template.doc:
        raise ValueError(f"eval.shuffles={recipe.eval.shuffles} has no effect: the prompt lists no documents; drop it")
    return Evaluator(
        dataset=EncodedDataset(test, encoder, negatives=True),
        collator=TrieTargetCollator(recipe.loss, pad_id(encoder.tokenizer), prune=False),
        mode=recipe.eval.mode,
        score=recipe.eval.score,
        recall_at=recipe.eval.recall_at,
        batch_size=recipe.eval.batch_size,
        layout=recipe.layout,
        num_beams=recipe.eval.num_beams,
        num_queries=num_queries,
        diagnostics=recipe.eval.diagnostics,
        generation=recipe.eval.generation,
        calibration=recipe.eval.calibration,
        asked=asked,
        grading=grading,
    )


def asked_of(recipe: Recipe, test: RankingDataset) -> list[Metric]:
    """The metrics of eval.metrics. Raises `ValueError` where one needs grades that the split lacks, or without gain."""
    asked = asked_metrics(recipe.eval.metrics)
    for metric in asked:
        if metric.needs_grades:
            check_grades(test, grading_of(recipe), metric.name, test.name)
    return asked


def grading_of(recipe: Recipe) -> Grading:
    """How the recipe reads grades."""
    return Grading(Gains.parse(recipe.eval.gains or "linear"), recipe.eval.relevant_above)
