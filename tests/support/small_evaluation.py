"""A dataset of letters and an evaluator of it, and one plain forward a docID with the softmax written out."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from stoical.data.rows import Doc, RankingRow
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import PromptTemplate
from stoical.encoding.queries import EncodedDataset, QueryEncoder
from stoical.encoding.tokenization import DocIDTokenizer
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.evaluator import Evaluator
from stoical.trie.node_weights import TargetSettings

WORDS = ["<pad>", "<s>", "</s>", ":", "|", *"abcdefg"]
KS = [1, 2, 5]


def make_rows(count: int = 11, negatives: int = 1) -> list[RankingRow]:
    """Queries of 1 to 6 documents, whose docIDs of 1 to 3 letters share prefixes, or are prefixes of each other."""
    rng, rows = random.Random(5), []
    for index in range(count):
        wanted, names = rng.randint(1, 6) + negatives, []
        while len(names) < wanted:
            name = " ".join(rng.choices("abc", k=rng.randint(1, 3)))
            names += [name] * (name not in names)
        docs = tuple(Doc(name) for name in names)
        query = " ".join(rng.choices("defg", k=rng.randint(1, 4)))
        rows.append(RankingRow(f"q{index}", query, docs[negatives:], docs[:negatives]))
    return rows


def encoded(
    rows: list[RankingRow], terminator: Any = "eos", count: bool = True, max_length: int = 100
) -> EncodedDataset:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    template = PromptTemplate("{query} : {docs} :", "{docid}", " | ")
    encoder = QueryEncoder(template, tokenizer, DocIDTokenizer(tokenizer, terminator, count), max_length, seed=0)
    return EncodedDataset(rows, encoder, negatives=True)  # type: ignore[arg-type]


def evaluator(dataset: EncodedDataset, **settings: Any) -> Evaluator:
    collator = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False)
    chosen = {
        "mode": "exact",
        "score": "mean",
        "recall_at": KS,
        "batch_size": 4,
        "layout": "sequence",
        "num_beams": 2,
    } | settings
    return Evaluator(dataset, collator, **chosen)


def token_logprobs(model: nn.Module, prompt: list[int], docid: list[int]) -> list[float]:
    """log p of each of a docID's tokens, from one forward over prompt and docID; the softmax by hand.

    Counted from the end: the model may put a soft prompt first.
    """
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *docid]])).logits[0].double()
    found = []
    for place, token in enumerate(docid):
        row = logits[place - len(docid) - 1]
        found.append(float(row[token]) - math.log(float(row.exp().sum())))
    return found


def next_tokens(query: TokenizedQuery, written: list[int]) -> set[int]:
    """What the query's docIDs have after these tokens."""
    longer = [list(ids) for ids in query.docid_ids if len(ids) > len(written)]
    return {ids[len(written)] for ids in longer if ids[: len(written)] == written}


def constrained_scores(model: nn.Module, query: TokenizedQuery) -> list[float]:
    """One greedy rollout that keeps to the query's docIDs, and the mean of the log-probabilities of its steps.

    A docID's tokens after the end of the rollout are left out.
    """
    written, distributions = [], []
    while options := next_tokens(query, written):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*query.prompt_ids, *written]])).logits[0, -1].double()
        distributions.append(logits - math.log(float(logits.exp().sum())))
        written.append(max(sorted(options), key=lambda token: float(logits[token])))
    return [
        sum(float(step[token]) for step, token in zip(distributions, ids, strict=False)) / min(len(ids), len(written))
        for ids in query.docid_ids
    ]


def greedy_scores(model: nn.Module, query: TokenizedQuery) -> list[float]:
    """Section 5.1's proxy: one greedy rollout, and the mean over a docID's tokens of their steps' log-probabilities."""
    written, distributions = list(query.prompt_ids), []
    for _ in range(max(map(len, query.docid_ids))):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([written])).logits[0, -1].double()
        distributions.append(logits - math.log(float(logits.exp().sum())))
        written.append(int(logits.argmax()))
    return [
        sum(float(distributions[step][token]) for step, token in enumerate(ids)) / len(ids) for ids in query.docid_ids
    ]
