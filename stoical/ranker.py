"""Rank documents with a trained model: exact scores of all documents of a query, one forward a batch of queries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import nn

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.model import load_model
from stoical.common.devices import check_device
from stoical.common.numbers import above_zero, at_least, within
from stoical.data.rows import RankingRow, as_objects, parse_row
from stoical.decoding.choices import Reduction
from stoical.decoding.scores import doc_scores
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import QueryEncoder
from stoical.encoding.tokenization import pad_id
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.checks import check_model
from stoical.models.forward import node_logprobs
from stoical.models.layouts import Layout
from stoical.models.self_check import check_loaded
from stoical.runs.find import find_checkpoint, load_checkpoint

UNREAD = ("data", "eval", "loss", "mitigations")  # sections of a recipe that say nothing about ranking
Document = str | Mapping[str, str | None]
"""A docID, or {"docid": ..., "text": ...}."""


@dataclass(frozen=True, slots=True)
class RankedDoc:
    """A result row: rank from 1, score in nats (higher is better), and the text if one was given.

    probability: of the document among those that were given, the softmax of log p(docID), whichever score ranks them.
    """

    docid: str
    score: float
    rank: int
    text: str | None = None
    probability: float = math.nan


@dataclass(frozen=True, slots=True)
class Prepared:
    """Queries that are ready for the model: their rows, and the batch of them."""

    rows: Sequence[RankingRow]
    batch: PackedBatch


@dataclass(frozen=True, slots=True)
class Ranker:
    """A model with the prompt, the tokenization and the score that it was trained for.

    `from_pretrained` loads one that stoical trained; a model of your own, in eval mode, goes with its encoder:

        ranker = Ranker(model.eval(), QueryEncoder.of(tokenizer))
        ranker.rank("deer", ["mammal", "ruminant", "entity"])[0].docid

    score: the mean or the sum of a docID's log-probabilities. bf16: compute in bfloat16. temperature: log p(docID) is
    divided by it for the probabilities, as `eval.calibration=true` fits it; the ranking is the same. The order in which
    documents are given does not matter: the prompt lists them in an order that the encoder's seed and the query decide.
    Equal scores are ranked by docID. Several threads may use one ranker: their passes follow one another. Raises
    `ValueError` for models that cannot run a trie.
    """

    model: nn.Module
    encoder: QueryEncoder
    score: Reduction = "mean"
    layout: Layout = "sequence"
    bf16: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)
        check_model(self.model, self.encoder.max_length)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        settings: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        temperature: float = 1.0,
    ) -> Self:
        """Load a run's last checkpoint, or a checkpoint: a whole model, or an adapter of peft's over its base model.

        Prompt, tokenization and score are those of the checkpoint's recipe.yaml; `settings`, such as
        {"prompt.max_length": "2048"}, change them. `device`: the accelerator if there is one. `dtype` of the weights:
        the recipe's model.dtype, as evaluation has it; torch.bfloat16 takes half of float32's memory. The softmax is
        in float32 with any. Raises `ValueError` where there is no checkpoint, for unknown settings, for a device that
        is not there, and for models that cannot run a trie.
        """
        values = dict(settings or {})
        if dtype is not None:
            values["model.dtype"] = str(dtype).removeprefix("torch.")
        recipe, adapter = load_checkpoint(find_checkpoint(str(directory)), values)
        _check_read(values)
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        check_device(device)
        tokenizer = build_tokenizer(recipe)
        model = load_model(recipe, tokenizer, adapter).to(device).eval()
        bf16 = bool(recipe.training.get("bf16"))
        check_loaded(model, len(tokenizer), recipe.prompt.max_length, recipe.layout, bf16)
        return cls(
            model=model,
            encoder=build_encoder(recipe, tokenizer),
            score=recipe.eval.score,
            layout=recipe.layout,
            bf16=bf16,
            temperature=temperature,
        )

    def rank(
        self,
        query: str,
        docs: Sequence[Document],
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> list[RankedDoc]:
        """The documents, or the best `top_k`, best first; none where the first is less probable than asked for.

        Raises `ValueError` as `rank_batch` does.
        """
        return self.rank_batch([(query, docs)], top_k, min_probability)[0]

    def rank_batch(
        self,
        queries: Sequence[tuple[str, Sequence[Document]]],
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> list[list[RankedDoc]]:
        """`rank` for several (query, documents), in one forward.

        Raises `ValueError` naming the query for documents that are not valid or repeat a docID or its tokens, and where
        they do not all fit into prompt.max_length.
        """
        return self.rank_prepared(self.prepare(queries), top_k, min_probability) if queries else []

    def prepare(self, queries: Sequence[tuple[str, Sequence[Document]]]) -> Prepared:
        """The first half of `rank_batch`, which needs no model: it may run in a thread beside the second."""
        rows = [_row(query, docs) for query, docs in queries]
        encoded = [self._encode(row) for row in rows]
        return Prepared(rows, TrieTargetCollator(pad_id=pad_id(self.encoder.tokenizer), prune=False)(encoded)["batch"])

    @torch.no_grad()
    def rank_prepared(
        self, prepared: Prepared, top_k: int | None = None, min_probability: float | None = None
    ) -> list[list[RankedDoc]]:
        """The second half of `rank_batch`."""
        if top_k is not None:
            at_least("top_k", top_k, 1)
        if min_probability is not None:
            within("min_probability", min_probability)
        device = next(self.model.parameters()).device
        rows, batch = prepared.rows, prepared.batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logprobs = node_logprobs(self.model, batch, self.layout).logprobs
        counts = [len(row.docs) for row in rows]
        scores = torch.split(doc_scores(batch, logprobs, self.score).double(), counts)
        sums = torch.split(doc_scores(batch, logprobs, "sum").double(), counts)
        probabilities = [(own / self.temperature).softmax(dim=0).tolist() for own in sums]
        ranked = [
            _results(row, own.tolist(), probable)
            for row, own, probable in zip(rows, scores, probabilities, strict=True)
        ]
        least = 0.0 if min_probability is None else min_probability
        return [results[:top_k] if results[0].probability >= least else [] for results in ranked]

    def _encode(self, row: RankingRow) -> TokenizedQuery:
        encoded = self.encoder.encode(row)
        if encoded.num_dropped:
            raise ValueError(
                f"query {row.query!r}: only {len(encoded.docids)} of its {len(row.docs)} documents fit into "
                f"prompt.max_length={self.encoder.max_length} tokens; give fewer documents or raise prompt.max_length"
            )
        return encoded


def _check_read(settings: Iterable[str]) -> None:
    """Raise `ValueError` for a setting that ranking does not read, such as eval.mode: its scores are exact."""
    for key in settings:
        if key.partition(".")[0] in UNREAD and key != "eval.score":
            raise ValueError(f"{key} has no effect on ranking, which scores every docID exactly; drop it")


def _row(query: str, docs: Sequence[Document]) -> RankingRow:
    """A validated row, its documents by docID; its query_id, which decides the shuffle, is the query."""
    where = f"query {query!r}"
    listed = as_objects(docs, where)
    for place, doc in enumerate(listed):
        unknown = set(doc) - {"docid", "text"} if isinstance(doc, Mapping) else set()
        if unknown:
            raise ValueError(f"{where}: docs[{place}]: unknown key {min(unknown)!r} (known keys: docid, text)")
    row = parse_row({"query_id": "query", "query": query, "docs": listed}, where)
    return replace(row, query_id=query, docs=tuple(sorted(row.docs, key=lambda doc: doc.docid)))


def _results(row: RankingRow, scores: list[float], probabilities: list[float]) -> list[RankedDoc]:
    if not torch.tensor(scores).isfinite().all():
        raise ValueError(f"query {row.query!r}: the model's scores are not finite; its weights are broken")
    found = zip(row.docs, scores, probabilities, strict=True)
    best_first = sorted(found, key=lambda each: -each[1])  # stable: ties stay by docID
    return [
        RankedDoc(doc.docid, score, rank, doc.text, probability)
        for rank, (doc, score, probability) in enumerate(best_first, 1)
    ]
