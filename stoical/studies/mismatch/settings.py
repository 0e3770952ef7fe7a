"""What can be set of the study, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from stoical.common.fields import unknown
from stoical.common.numbers import above_zero, at_least, not_negative, within
from stoical.common.options import option

Reduction = Literal["mean", "sum"]
OffTrie = Literal["zero", "uniform", "mask"]
Sampler = Literal["greedy", "sampled"]
StopGradient = Literal["none", "tf", "ar"]
Optimizer = Literal["sgd", "adam"]
Model = Literal["bigram", "recurrent"]
Generator = Literal["iid", "hierarchical"]


@dataclass
class CompatSettings:
    """Block 1: what the paper leaves open, as set here."""

    replications: int = option(200, "simulations, each with a corpus, queries and weights of its own")
    queries: int = option(500, "queries of a replication")
    evaluated: int = option(100, "of these, the first ones that are evaluated; 100 x 6 tokens fit its accuracies")
    held_out: bool = option(False, "evaluate on new queries of the same kind, not on the first trained ones")
    shortest_list: int = option(20, "the fewest relevant documents of a query")
    longest_list: int = option(20, "the most; each query's number is drawn between the two")
    generator: Generator = option(
        "iid", "docIDs: iid, random ones; hierarchical, by repeated splits of random vectors. Lists are random anyway"
    )
    beta: float = option(0.5, "mu(r) = r^-beta")
    model: Model = option(
        "bigram",
        "bigram: the next token by position and last token, whatever the query; recurrent: by query and all tokens",
    )
    init_scale: float = option(0.01, "standard deviation of the bigram model's first logits")
    optimizer: Optimizer = option("adam", "sgd or adam")
    learning_rate: float = option(0.05, "of the loss per query, as reduced")
    epochs: int = option(30, "passes over the queries")
    batch: int = option(25, "queries a step and replication")
    reduction: Reduction = option("mean", "a position's KL is the mean over the vocabulary's tokens, or the sum")
    off_trie: OffTrie = option(
        "zero",
        "where a prefix leads to no relevant document: zero (no target: a KL of 0), uniform (over the vocabulary), or "
        "mask (left out of the mean over positions)",
    )
    sampler: Sampler = option("greedy", "the model's own tokens in training: the likeliest, or sampled ones")
    minimum: float = option(0.3, "scheduled sampling: what the probability of a gold token falls to, linearly")
    consistency_weight: float = option(0.5, "lambda of Eq. 1")
    stop_gradient: StopGradient = option("none", "Eq. 1: which side of the second term is taken as given")
    term_in_loss: bool = option(False, "count Eq. 1's second term in the loss that is reported")

    def check(self, documents: int) -> None:
        """Raise `ValueError` naming the setting that is out of range."""
        at_least("compat.replications", self.replications, 2)
        for key in ("queries", "evaluated", "shortest_list", "epochs", "batch"):
            at_least(f"compat.{key}", getattr(self, key), 1)
        if not self.shortest_list <= self.longest_list <= documents:
            raise ValueError(
                f"compat.longest_list={self.longest_list} must lie between compat.shortest_list={self.shortest_list} "
                f"and documents={documents}"
            )
        if self.queries % self.batch:
            raise ValueError(f"compat.queries={self.queries} must be a multiple of compat.batch={self.batch}")
        if not self.held_out and self.evaluated > self.queries:
            raise ValueError(f"compat.evaluated={self.evaluated} must not exceed compat.queries={self.queries}")
        within("compat.minimum", self.minimum)
        for key in ("beta", "init_scale", "consistency_weight"):
            not_negative(f"compat.{key}", getattr(self, key))
        if self.model == "recurrent" and self.init_scale != CompatSettings.init_scale:
            raise ValueError(f"compat.init_scale={self.init_scale} has no effect with compat.model=recurrent; drop it")
        above_zero("compat.learning_rate", self.learning_rate)


@dataclass
class ExactSettings:
    """Block 2: the task, the model and the training."""

    generator: Generator = option(
        "hierarchical", "docIDs by repeated splits of the documents' vectors, as k-means docIDs are; iid: random ones"
    )
    shared: bool = option(False, "one set of parameters for all positions; else each position has its own")
    replications: int = option(100, "simulations, each with a corpus, queries and weights of its own")
    queries: int = option(200, "training queries of a replication")
    tested: int = option(12, "test queries of a replication, none of them in training")
    relevant: int = option(8, "documents in a query's list, the most similar ones")
    negatives: int = option(4, "documents off the list, for methods that compare with such")
    beta: float = option(2.0, "mu(r) = r^-beta, and lambda(r) of item weights")
    features: int = option(4, "numbers that describe a query or a document")
    noise: float = option(0.3, "standard deviation of what a query's numbers are off the document it is about")
    hidden: int = option(32, "width of the model's state")
    steps: int = option(200, "optimizer steps")
    batch: int = option(4, "queries a step and replication")
    learning_rate: float = option(0.01, "of Adam, before tuning")
    tuning: int = option(6, "replications, on seeds of their own, on which each method tries three settings")
    variants: int = option(20, "replications of the other generators, parameters and lengths")
    lengths: str = option("2,4,6,10", "tokens of a docID, in the figure by length")

    def check(self, documents: int) -> None:
        """Raise `ValueError` naming the setting that is out of range."""
        for key in ("queries", "tested", "negatives", "features", "hidden", "steps", "batch"):
            at_least(f"exact.{key}", getattr(self, key), 1)
        for key in ("replications", "relevant", "tuning", "variants"):
            at_least(f"exact.{key}", getattr(self, key), 2)
        if self.relevant + self.negatives > documents:
            raise ValueError(
                f"exact.relevant={self.relevant} and exact.negatives={self.negatives} are more than "
                f"documents={documents}"
            )
        if self.queries % self.batch:
            raise ValueError(f"exact.queries={self.queries} must be a multiple of exact.batch={self.batch}")
        if not 1 <= self.beta < math.inf:
            raise ValueError(f"exact.beta={self.beta} must be a finite number of at least 1")
        not_negative("exact.noise", self.noise)
        above_zero("exact.learning_rate", self.learning_rate)

    def every_length(self) -> list[int]:
        """`lengths` as numbers. Raises `ValueError` for what is none, or none at all."""
        words = [word.strip() for word in self.lengths.split(",")]
        if not all(word.isdecimal() and int(word) >= 1 for word in words):
            raise ValueError(f"exact.lengths={self.lengths} must be whole numbers of at least 1, such as 2,4,6,10")
        return sorted({int(word) for word in words})


@dataclass
class MismatchSettings:
    """What the user can set; `--help` prints it."""

    output: str = option("runs/mismatch", "directory of tables, figures and parts; one of the same settings resumes")
    quick: bool = option(False, "few replications, queries and steps, for whatever is not given: shows that it runs")
    blocks: str = option("1,2", "which blocks to make: 1 (the paper's conventions), 2 (exact), or both")
    methods: str = option("all", "methods of block 2 by name, with commas; teacher forcing is always among them")
    seed: int = option(0, "of every draw")
    documents: int = option(200, "documents of a corpus")
    vocabulary: int = option(32, "tokens")
    length: int = option(6, "tokens of a docID")
    compat: CompatSettings = option(None, "block 1", factory=CompatSettings)
    exact: ExactSettings = option(None, "block 2", factory=ExactSettings)

    def check(self, methods: Collection[str]) -> None:
        """Raise `ValueError` naming the setting that is out of range, or a method that is none of `methods`."""
        within("seed", self.seed, 0, 2**31 - 1)
        at_least("vocabulary", self.vocabulary, 2)
        at_least("length", self.length, 1)
        at_least("documents", self.documents, 2)
        self.compat.check(self.documents)
        self.exact.check(self.documents)
        for length in (self.length, *self.exact.every_length()):
            if self.vocabulary**length < 2 * self.documents:
                raise ValueError(
                    f"documents={self.documents} need more docIDs than vocabulary={self.vocabulary} makes of "
                    f"{length} tokens: raise vocabulary or the length, or lower documents"
                )
        self.chosen_blocks()
        self.chosen_methods(methods)

    def chosen_blocks(self) -> list[int]:
        """`blocks` as numbers."""
        words = [word.strip() for word in self.blocks.split(",")]
        if not set(words) <= {"1", "2"}:
            raise ValueError(f"blocks={self.blocks} must be 1, 2 or 1,2")
        return sorted({int(word) for word in words})

    def chosen_methods(self, known: Collection[str]) -> list[str]:
        """`methods` in the order of `known`, the first of which is always there."""
        wanted = {word.strip() for word in self.methods.split(",")}
        for name in wanted - {"all"}:
            if name not in known:
                raise unknown("method", name, list(known))
        return [name for place, name in enumerate(known) if place == 0 or "all" in wanted or name in wanted]


QUICK: dict[str, Any] = {
    "documents": 60,
    "compat.replications": 4,
    "compat.queries": 50,
    "compat.evaluated": 50,
    "compat.shortest_list": 8,
    "compat.longest_list": 8,
    "compat.epochs": 5,
    "exact.replications": 4,
    "exact.queries": 12,
    "exact.tested": 4,
    "exact.steps": 10,
    "exact.tuning": 2,
    "exact.variants": 2,
    "exact.lengths": "2,4",
}


def quickened(settings: MismatchSettings, given: Collection[str]) -> MismatchSettings:
    """With `quick`, the settings with few of everything, but for what was `given` by name."""
    if not settings.quick:
        return settings
    chosen = {key: value for key, value in QUICK.items() if key not in given}
    own = {key: value for key, value in chosen.items() if "." not in key}
    for section in ("compat", "exact"):
        inner = {key.split(".")[1]: value for key, value in chosen.items() if key.startswith(f"{section}.")}
        own[section] = replace(getattr(settings, section), **inner)
    return replace(settings, **own)
