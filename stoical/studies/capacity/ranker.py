"""An autoregressive ranker of constant hidden size learns all k! orders, where a dual encoder of that size cannot.

The model is an ordinary decoder (Mistral's architecture) whose hidden vectors have `hidden` numbers. It reads the order
that it is asked for, one token a document, from first to last, and writes a docID of binary digits. It is trained with
ListMLE on the exact scores log p(docID): the likelihood of the whole order. SToICaL's item-level loss, whose optimum
ranks every order right, too, leaves the last few orders wrong for longer, since its targets of neighbours are close.

Dimension letters: Q = k! queries, k documents, B queries of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stoical.common.lazy import torch
from stoical.decoding.scores import doc_scores
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.objectives.ranking.list_mle import LIST_MLE
from stoical.objectives.ranking.lists import make_lists
from stoical.studies.capacity.free_embeddings import all_orders
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

BOS, FIRST_DOCUMENT = 2, 3  # tokens 0 and 1 are the digits of docIDs
LAYERS, HEADS, HEAD_WIDTH, INNER = 3, 4, 8, 64
RATE, WARMUP, CLIP = 5e-3, 100, 1.0
CHECKS = 30  # counts of what is right, in a whole training


def docids(k: int) -> list[list[int]]:
    """The k docIDs as binary numbers of equally many digits."""
    digits = max(1, math.ceil(math.log2(k)))
    return [[int(bit) for bit in f"{i:0{digits}b}"] for i in range(k)]


def small_model(k: int, hidden: int, seed: int) -> PreTrainedModel:
    """A decoder with `hidden` numbers a hidden vector, and so with embeddings of as many dimensions."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=FIRST_DOCUMENT + k,
        hidden_size=hidden,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_WIDTH,
        sliding_window=None,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        attn_implementation="trie_sdpa",
    )
    return MistralForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Task:
    """All k! queries: `orders` [Q, k] the documents from first to last, `ranks` [Q, k] those of the documents.

    `shape` is a batch of B queries; every batch has its columns, its mask and its nodes.
    """

    orders: Tensor
    ranks: Tensor
    shape: PackedBatch

    @property
    def size(self) -> int:
        """B."""
        return len(self.shape.query_ids)

    def batch(self, rows: Tensor) -> PackedBatch:
        """The batch of these B queries."""
        input_ids = self.shape.input_ids.clone()
        input_ids[:, 1 : self.shape.prompt_width] = FIRST_DOCUMENT + self.orders[rows]
        return replace(self.shape, input_ids=input_ids, doc_rank=self.ranks[rows].flatten())

    def draw(self, wrong: Tensor, generator: torch.Generator) -> Tensor:
        """[B] queries at random, up to half of them out of those that were `wrong`, no more than these are."""
        rows = torch.randint(len(self.orders), (self.size,), generator=generator)
        again = min(len(wrong), self.size // 2)
        if again:
            rows[:again] = wrong[torch.randint(len(wrong), (again,), generator=generator)]
        return rows


def make_task(k: int, size: int) -> Task:
    """The queries of k documents in batches of `size`, or of all k! where they are fewer."""
    orders, ids = all_orders(k), docids(k)
    ranks = np.argsort(orders, axis=1) + 1
    names = ["".join(map(str, each)) for each in ids]
    query = TokenizedQuery(
        "", [BOS, *range(FIRST_DOCUMENT, FIRST_DOCUMENT + k)], names, ids, [*map(len, ids)], ranks[0]
    )
    shape = TrieTargetCollator(TargetSettings(), prune=False)([query] * min(size, len(orders)))["batch"]
    return Task(torch.tensor(orders), torch.from_numpy(ranks), shape)


def ranked_wrong(model: PreTrainedModel, task: Task) -> Tensor:
    """The queries whose order the model does not rank right: scores are log p(docID), and equal ones are wrong."""
    from stoical.models.forward import node_logprobs

    right = torch.zeros(len(task.orders), dtype=torch.bool)
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(right)), task.size):
            full = torch.cat([rows, rows.new_zeros(task.size - len(rows))])  # the last batch is filled up
            batch = task.batch(full)
            found = doc_scores(batch, node_logprobs(model, batch).logprobs, "sum").view(task.size, -1)
            in_order = found.gather(1, task.orders[full])[: len(rows)]
            right[rows] = (in_order[:, :-1] > in_order[:, 1:]).all(dim=1)
    return (~right).nonzero()[:, 0]


def train(k: int, hidden: int, seed: int, steps: int, size: int) -> tuple[int, int]:
    """Train for at most `steps` batches of `size`; how many of the k! orders are right then, and after how many steps.

    It ends where all are right, which is looked at CHECKS times. Orders that are wrong then are trained on more often.
    """
    from stoical.models.forward import node_logprobs

    model, task = small_model(k, hidden, seed), make_task(k, size)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    wrong = torch.arange(0)
    for step in range(1, steps + 1):
        batch = task.batch(task.draw(wrong, generator))
        scores = doc_scores(batch, node_logprobs(model, batch).logprobs, "sum")
        loss = LIST_MLE.value(make_lists(batch, scores)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            wrong = ranked_wrong(model, task)
            if not len(wrong):
                break
    return len(task.orders) - len(wrong), step
