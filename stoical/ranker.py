"""Rank documents with a trained model: exact scores of all documents of a query, one forward a batch of queries.

  python -m stoical.ranker checkpoint=DIR [input=FILE] [output=FILE] [items=FILE] [top_k=K] [batch_size=B] [key=value]

Reads JSON lines {"query": ..., "docs": [...]}, a document being a docID or {"docid": ..., "text": ...}, and writes for
each line, in order, {"query": ..., "results": [{"rank": 1, "docid": ..., "score": ...}, ...]}, with the documents'
texts and the line's "query_id" where it has them. input=- and output=-, the defaults, are stdin and stdout. Scores are
log-probabilities in nats. checkpoint is a run (its last checkpoint is taken) or a checkpoint, and other settings are
those of its recipe, such as prompt.max_length=2048. model.dtype=bfloat16 takes half the memory of float32 weights (15
instead of 29 GB for 7 billion); it moved the scores of the quickstart's model by up to 0.01 nats.

With items=, a table of docIDs that data_prep made (items.parquet), documents are item ids: their docIDs and texts are
looked up there, and results have their "item_id".
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import nn
from tqdm import tqdm

from stoical.build import build_encoder, build_tokenizer, load_model, pad_id
from stoical.checkpoints import find_checkpoint, load_checkpoint
from stoical.cli import run
from stoical.config import split_arguments
from stoical.data import RankingRow, parse_row
from stoical.docids import DocIDTable
from stoical.forward import Layout, node_logprobs
from stoical.packing import TokenizedQuery, TrieTargetCollator
from stoical.queries import QueryEncoder
from stoical.scoring import Reduction, doc_scores

Document = str | Mapping[str, str | None]
"""A docID, or {"docid": ..., "text": ...}."""

BATCH_SIZE = 8
LINE_KEYS = {"query_id", "query", "docs"}


@dataclass(frozen=True, slots=True)
class RankedDoc:
    """A result row: rank from 1, score in nats (higher is better), and the text if one was given."""

    docid: str
    score: float
    rank: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Ranker:
    """A model with the prompt, the tokenization and the score that it was trained for.

    The order in which documents are given does not matter: the prompt lists them in an order that the recipe's seed and
    the query decide. Equal scores are ranked by docID.
    """

    model: nn.Module
    encoder: QueryEncoder
    collator: TrieTargetCollator
    score: Reduction
    layout: Layout
    bf16: bool

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        settings: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a run's last checkpoint, or a checkpoint: a whole model, or an adapter of peft's over its base model.

        Prompt, tokenization and score are those of the checkpoint's recipe.yaml; `settings`, such as
        {"prompt.max_length": "2048"}, change them. `device`: the accelerator if there is one. `dtype` of the weights:
        the recipe's model.dtype, as evaluate.py has it; torch.bfloat16 takes half of float32's memory. The softmax is
        in float32 with any. Raises `ValueError` where there is no checkpoint, for unknown settings, and for models that
        cannot run a trie.
        """
        values = dict(settings or {})
        if dtype is not None:
            values["model.dtype"] = str(dtype).removeprefix("torch.")
        recipe, adapter = load_checkpoint(find_checkpoint(str(directory)), values)
        tokenizer = build_tokenizer(recipe)
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        return cls(
            model=load_model(recipe, tokenizer, adapter).to(device).eval(),
            encoder=build_encoder(recipe, tokenizer),
            collator=TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune=False),
            score=recipe.eval.score,
            layout=recipe.layout,
            bf16=bool(recipe.training.get("bf16")),
        )

    def rank(self, query: str, docs: Sequence[Document], top_k: int | None = None) -> list[RankedDoc]:
        """The documents, or the best `top_k`, best first. Raises `ValueError` as `rank_batch` does."""
        return self.rank_batch([(query, docs)], top_k)[0]

    @torch.no_grad()
    def rank_batch(
        self, queries: Sequence[tuple[str, Sequence[Document]]], top_k: int | None = None
    ) -> list[list[RankedDoc]]:
        """`rank` for several (query, documents), in one forward.

        Raises `ValueError` naming the query for documents that are not valid or repeat a docID or its tokens, and where
        they do not all fit into prompt.max_length.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k} must be at least 1")
        if not queries:
            return []
        rows = [_row(query, docs) for query, docs in queries]
        encoded = [self._encode(row) for row in rows]
        device = next(self.model.parameters()).device
        batch = self.collator(encoded)["batch"].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logprobs = node_logprobs(self.model, batch, self.layout).logprobs
        scores = torch.split(doc_scores(batch, logprobs, self.score).double(), [len(row.docs) for row in rows])
        return [_results(row, own.tolist())[:top_k] for row, own in zip(rows, scores, strict=True)]

    def _encode(self, row: RankingRow) -> TokenizedQuery:
        encoded = self.encoder.encode(row)
        if encoded.num_dropped:
            raise ValueError(
                f"query {row.query!r}: only {len(encoded.docids)} of its {len(row.docs)} documents fit into "
                f"prompt.max_length={self.encoder.max_length} tokens; give fewer documents or raise prompt.max_length"
            )
        return encoded


def _row(query: str, docs: Sequence[Document]) -> RankingRow:
    """A validated row, its documents by docID; its query_id, which decides the shuffle, is the query."""
    where = f"query {query!r}"
    if isinstance(docs, str | Mapping) or not isinstance(docs, Iterable):
        raise ValueError(f"{where}: the documents must be a list of docIDs or of {{'docid': ..., 'text': ...}}")
    listed = [{"docid": doc} if isinstance(doc, str) else doc for doc in docs]
    for place, doc in enumerate(listed):
        unknown = set(doc) - {"docid", "text"} if isinstance(doc, Mapping) else set()
        if unknown:
            raise ValueError(f"{where}: docs[{place}]: unknown key {min(unknown)!r} (known keys: docid, text)")
    row = parse_row({"query_id": "query", "query": query, "docs": listed}, where)
    return replace(row, query_id=query, docs=tuple(sorted(row.docs, key=lambda doc: doc.docid)))


def _results(row: RankingRow, scores: list[float]) -> list[RankedDoc]:
    if not torch.tensor(scores).isfinite().all():
        raise ValueError(f"query {row.query!r}: the model's scores are not finite; its weights are broken")
    best_first = sorted(zip(row.docs, scores, strict=True), key=lambda pair: -pair[1])  # stable: ties stay by docID
    return [RankedDoc(doc.docid, score, rank, doc.text) for rank, (doc, score) in enumerate(best_first, 1)]


def rank_lines(
    ranker: Ranker,
    lines: Iterable[bytes],
    source: str,
    top_k: int | None = None,
    batch_size: int = BATCH_SIZE,
    items: DocIDTable | None = None,
) -> Iterator[dict[str, Any]]:
    """An output object for each line that is not blank, holding one batch in memory at a time.

    With `items` the lines' documents are item ids. Raises `ValueError` naming `source` and the line, after the results
    of the batches before it.
    """
    parsed = (_parse(line, f"{source}:{number}", items) for number, line in enumerate(lines, 1) if line.strip())
    while batch := list(islice(parsed, batch_size)):
        for (_, raw), results in zip(batch, _rank_parsed(ranker, batch, top_k), strict=True):
            echoed = {key: raw[key] for key in ("query_id", "query") if key in raw}
            yield echoed | {"results": [_object(result, raw.get("items", {})) for result in results]}


def _rank_parsed(ranker: Ranker, batch: list[tuple[str, dict[str, Any]]], top_k: int | None) -> list[list[RankedDoc]]:
    try:
        return ranker.rank_batch([(raw["query"], raw["docs"]) for _, raw in batch], top_k)
    except ValueError:
        for where, raw in batch:  # one by one, to find the line
            try:
                ranker.rank(raw["query"], raw["docs"], top_k)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        raise


def _parse(line: bytes, where: str, items: DocIDTable | None) -> tuple[str, dict[str, Any]]:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not a JSON object on one line, in UTF-8: {error}") from error
    if not isinstance(raw, dict) or not {"query", "docs"} <= raw.keys() <= LINE_KEYS:
        found = f"the keys {', '.join(raw) or 'none'}" if isinstance(raw, dict) else "something else"
        raise ValueError(f'{where}: expected {{"query": ..., "docs": [...]}} and maybe "query_id", found {found}')
    return where, raw if items is None else raw | _looked_up(raw["docs"], items, where)


def _looked_up(docs: Any, items: DocIDTable, where: str) -> dict[str, Any]:
    """`docs`, item ids, as documents, and `items`: from docID back to item id."""
    unknown = [item for item in docs if item not in items.docid_of] if _are_strings(docs) else [docs]
    if unknown:
        raise ValueError(f"{where}: {unknown[0]!r} is no item of items=; with it, docs is a list of item ids")
    found = [{"docid": items.docid_of[item], "text": items.text_of[item] or None} for item in docs]
    return {"docs": found, "items": {items.docid_of[item]: item for item in docs}}


def _are_strings(docs: Any) -> bool:
    return isinstance(docs, list) and all(isinstance(item, str) for item in docs)


def _object(result: RankedDoc, item_of: Mapping[str, str]) -> dict[str, Any]:
    found = {"rank": result.rank, "docid": result.docid, "score": result.score}
    found |= {"item_id": item_of[result.docid]} if item_of else {}
    return found if result.text is None else found | {"text": result.text}


def main(arguments: Sequence[str]) -> None:
    """The command line of the module's docstring."""
    values = split_arguments(arguments)
    if "checkpoint" not in values:
        raise ValueError("give checkpoint=DIR, a run or a checkpoint")
    source, target = values.pop("input", "-"), values.pop("output", "-")
    top_k = _positive(values, "top_k")
    batch_size = _positive(values, "batch_size") or BATCH_SIZE
    if source != "-" and not Path(source).is_file():
        raise ValueError(f"input={source}: no such file")
    if "-" not in (source, target) and Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"output={target} is the input; give another file")
    items = DocIDTable.load(values.pop("items")) if "items" in values else None
    ranker = Ranker.from_pretrained(values.pop("checkpoint"), values)
    with ExitStack() as files:
        lines = sys.stdin.buffer if source == "-" else files.enter_context(Path(source).open("rb"))
        output = sys.stdout.buffer if target == "-" else files.enter_context(_opened(target))
        name = "stdin" if source == "-" else source
        results = rank_lines(ranker, lines, name, top_k, batch_size, items)
        for result in tqdm(results, desc="ranking", unit="query", disable=None):
            output.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
            output.flush()


def _positive(values: dict[str, str], key: str) -> int | None:
    """The whole number, at least 1, taken out of `values` if it is there."""
    word = values.pop(key, None)
    if word is not None and not (word.isascii() and word.isdigit() and int(word)):
        raise ValueError(f"{key}={word} must be a whole number of at least 1")
    return None if word is None else int(word)


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("wb")
    except OSError as error:
        raise ValueError(f"output={path}: {error.strerror}") from error


if __name__ == "__main__":
    try:
        run(main, __doc__ or "", recipes=False)
    except BrokenPipeError:  # whoever reads stdout has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
