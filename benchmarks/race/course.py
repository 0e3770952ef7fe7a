"""A course of the race: a dataset with its recipe, and what all entrants start from on it.

That is the rows, the tokenizer, the initial weights and the test queries that marks are evaluated on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import data_prep.wordnet.hypernyms
from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.evaluator import build_evaluator
from stoical.build.model import build_config, build_model
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.files import split_sha256
from stoical.encoding.queries import QueryEncoder
from stoical.evaluation.evaluator import Evaluator, sample
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import mean_metrics, query_metrics
from stoical.models.layouts import TRIE_ATTENTION

NUMBERS = ("ndcg", "cvr", "recall@1")
QUICK = (  # a course of seconds, for tests
    *("model.config.hidden_size=32", "model.config.intermediate_size=64", "model.config.num_hidden_layers=1"),
    *("training.max_steps=4", "training.warmup_steps=1", "eval.num_queries=4", "global_batch_size=4"),
)


@dataclass(frozen=True, slots=True)
class Course:
    """A dataset, the recipes that stoical runs on it (lambda = 1/r^2, ListMLE), and the command that makes the data."""

    path: str
    recipe: tuple[str, ...]
    list_mle: tuple[str, ...]
    made_by: str


SHAPE = (  # as `esci_small` has it; the model of `small` takes four times as long
    "model.config.hidden_size=64",
    "model.config.intermediate_size=192",
    "model.config.num_hidden_layers=2",
)
ESCI = ("eval.num_queries=100", "training.max_steps=600")  # a third of the overlay's steps
COURSES = {
    "mammals": Course(
        "data/mammal",
        ("wordnet_alpha2,small,quickstart", *SHAPE),
        ("wordnet_ranking,small,quickstart", *SHAPE),
        "stoical prepare wordnet out=data/mammal subtree=mammal.n.01 test_size=200",
    ),
    "esci": Course(
        "data/esci",
        ("esci_ntp,small,esci_small", "loss.item=fractional", "loss.alpha=2", *ESCI),
        ("esci_ranking,small,esci_small", *ESCI),
        "stoical prepare esci queries=esci_queries.parquet titles=esci_products.parquet,catalog_products.parquet "
        "out=data/esci",
    ),
}


def missing(name: str) -> str | None:
    """Why a course cannot be run, or None. The mammals are made where they are missing, out of the bundled WordNet."""
    course = COURSES[name]
    if Path(course.path).is_dir():
        return None
    if name == "mammals":
        options = data_prep.wordnet.hypernyms.WordNetOptions(out=course.path, subtree="mammal.n.01", test_size=200)
        data_prep.wordnet.hypernyms.build(options)
        return None
    return f"there is no {course.path}; make it with: {course.made_by}"


@dataclass(frozen=True, slots=True)
class Start:
    """What all entrants have in common on a course, for one seed."""

    words: tuple[str, ...]
    recipe: Recipe
    train: RankingDataset
    test: RankingDataset
    tokenizer: Any
    encoder: QueryEncoder
    evaluator: Evaluator
    data_sha256: dict[str, str]

    @classmethod
    def of(cls, name: str, seed: int, quick: bool = False, steps: int = 0) -> Start:
        """The start of a course whose data is there; steps: of stoical, 0 for the recipe's."""
        course = COURSES[name]
        words = (f"data.path={course.path}", f"seed={seed}", *(QUICK if quick else ()))
        if steps:
            words += (f"training.max_steps={steps}", f"training.warmup_steps={steps // 12}")
        recipe = merged(course.recipe, words)
        train, test = load_split(course.path, "train"), load_split(course.path, "test")
        tokenizer = build_tokenizer(recipe, train)
        encoder = build_encoder(recipe, tokenizer)
        evaluator = build_evaluator(recipe, test, encoder, recipe.eval.num_queries)
        sums = {split: split_sha256(course.path, split) for split in ("train", "test")}
        return cls(words, recipe, train, test, tokenizer, encoder, evaluator, sums)

    def with_output(self, recipe: tuple[str, ...], output: str | Path) -> Recipe:
        """A recipe of ours on this start, without evaluations and checkpoints of its own."""
        none = ("training.eval_strategy=no", "training.save_strategy=no", "training.use_cpu=true")
        return merged(recipe, (*self.words, *none, f"output={output}"))

    def model(self) -> Any:
        """The language model with its initial weights: the same tensors every time, by the recipe's seed."""
        return build_model(self.recipe, build_config(self.recipe, self.tokenizer))

    @property
    def warmup(self) -> float:
        """The share of the run over which the learning rate rises."""
        return float(self.recipe.training["warmup_steps"] / self.recipe.training["max_steps"])

    def measure(self, model: Any) -> dict[str, float]:
        """The metrics of a language model, by stoical's evaluator; its attention is what it was, afterwards."""
        attention = model.config._attn_implementation
        model.set_attn_implementation(TRIE_ATTENTION)  # equal scores (tested), in less time
        try:
            return picked(self.evaluator(model).metrics)
        finally:
            model.set_attn_implementation(attention)

    def measure_scores(self, score: Callable[[list[tuple[str, str]]], Any]) -> dict[str, float]:
        """The metrics of scores of (query, docID), over the same queries, documents and negatives."""
        rows = [self.test[index] for index in sample(len(self.test), self.evaluator.num_queries)]
        docids = [[doc.docid for doc in (*row.docs, *row.negatives)] for row in rows]
        pairs = [(row.query, docid) for row, own in zip(rows, docids, strict=True) for docid in own]
        scores, found = iter(score(pairs)), []
        for row, own in zip(rows, docids, strict=True):
            found.append(judged(row, [float(next(scores)) for _ in own], self.recipe.eval.recall_at))
        return picked(mean_metrics(found))


def merged(recipe: tuple[str, ...], words: tuple[str, ...]) -> Recipe:
    """A recipe with further words, the later of two with the same key."""
    return load_recipe(*{word.partition("=")[0]: word for word in (*recipe, *words)}.values())


def judged(row: Any, scores: list[float], recall_at: list[int]) -> Mapping[str, Any]:
    """The metrics of one query, its negatives after its documents."""
    ranks = np.array([*row.ranks, *[len(row.docs) + 1] * len(row.negatives)])
    return query_metrics(JudgedQuery(np.array(scores), ranks, len(row.negatives)), recall_at)


def picked(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that the race shows; a dataset without negatives has no CVR."""
    return {name: float(metrics[name]) for name in NUMBERS if name in metrics}
