"""The exact block's measures: every document of the corpus is scored, nothing is sampled.

Dimension letters: R replications, B queries, M trie nodes, D docIDs, L tokens of a docID, V vocabulary, N prefixes of a
replication.

A test query's trie is the corpus's: its list, and all other documents as negatives, which have no target. The model
decodes within it, so it can go where no relevant document is: those prefixes are dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stoical.common.arrays import Floats
from stoical.decoding.free_run import greedy_is_valid, teacher_forced
from stoical.decoding.scores import doc_scores
from stoical.decoding.walks import family_argmax, top_docs, trie_logprobs, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.evaluation.diagnostics import diagnose
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import query_metrics
from stoical.models.forward import NodeOutput
from stoical.objectives.mitigations.rewards import docid_rewards, expected_reward
from stoical.studies.mismatch.models import Plan, Recurrent, make_plan
from stoical.studies.mismatch.training import Task
from stoical.trie.node_weights import TargetSettings

LAST = 2**40  # the rank of documents off the list, where decoding is to know them
CHUNK = 5  # replications that are packed at once
CUTOFFS = (1, 5)


@dataclass(frozen=True, slots=True)
class TestQueries:
    """Test queries of some replications, packed: `batch` knows the list alone, in `corpus` all documents are listed."""

    numbers: list[int]
    batch: PackedBatch
    corpus: PackedBatch
    plan: Plan
    gold: list[list[int]]  # by replication the top documents' tokens in training, for the modal row


def tests_of(task: Task) -> list[TestQueries]:
    """Test queries of all replications, CHUNK replications at a time."""
    collate = TrieTargetCollator(TargetSettings(token="trie", beta=task.settings.beta), prune=False)
    return [
        _packed(task, list(range(len(task.worlds)))[first : first + CHUNK], collate)
        for first in range(0, len(task.worlds), CHUNK)
    ]


def _packed(task: Task, numbers: list[int], collate: TrieTargetCollator) -> TestQueries:
    queries = len(task.worlds[0].features)
    rows = []
    for local, number in enumerate(numbers):
        world = task.worlds[number]
        for place in range(task.settings.queries, queries):
            rows.append(world.query(place, str(local * queries + place), world.off_list(place)))
    batch = collate(rows)["batch"]
    corpus = replace(batch, node_rank=batch.node_rank.clamp(max=LAST))
    tops = [[world.lists[q][0] for q in range(task.settings.queries)] for world in task.worlds]
    return TestQueries(
        numbers,
        batch,
        corpus,
        make_plan(batch, queries, len(numbers)),
        [task.worlds[number].docids[tops[number]].tolist() for number in numbers],
    )


def measured(model: Recurrent, tests: Sequence[TestQueries]) -> dict[str, Floats]:
    """Every measure of a trained model, [R] or [R, L]."""
    with torch.no_grad():
        return joined([measures(some, model.part(some.numbers).read(some.batch, some.plan)) for some in tests])


def joined(found: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """The measures of several chunks, one after another."""
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def measures(tests: TestQueries, output: NodeOutput) -> dict[str, Floats]:
    """Means over each replication's test queries; nats, probabilities, shares of 1.

    Measures of a position are [R, L]. kl_tf, KL(q_n || p_n) at prefixes drawn by the target; kl_ar, the same at those
    that the model, decoding within the corpus, visits while they are alive; mismatch_at, their difference; alive, how
    many are; tv, the total variation between the two distributions over prefixes of t tokens; off_corpus, how many
    unconstrained runs have left the corpus's docIDs. docid_kl is the sum of kl_tf, KL(pi || p) over docIDs.
    """
    batch, corpus, logprobs = tests.batch, tests.corpus, output.logprobs.double()
    sums = diagnose(corpus, logprobs)
    forced, common = sums["teacher_forced"], sums["common"]
    mean = _Means(len(tests.numbers))
    kl_tf, alive = mean(forced.kl), mean(common.prefixes)
    kl_ar = mean(common.kl) / alive.clip(min=1e-12)
    scores = doc_scores(batch, logprobs, "sum")
    greedy = _greedy(corpus, logprobs)
    rewards = docid_rewards(batch, "target").double()
    return {
        **_ranking(batch, scores, mean),
        "expected_gain": mean(expected_reward(corpus, logprobs, rewards)),
        "greedy_recall@1": mean(_at_rows(batch, greedy & (batch.node_rank == 1) & _ends(batch))),
        "docid_kl": kl_tf.sum(axis=1),
        "mismatch": (kl_ar - kl_tf)[:, 1:].mean(axis=1) if kl_tf.shape[1] > 1 else np.zeros(len(kl_tf)),
        "valid_mass": mean(_at_rows(batch, scores.exp(), batch.doc_query)),
        "invalid_rate": 1 - mean(greedy_is_valid(batch, output).double()),
        "token_accuracy": mean(_accuracy(batch, output)),
        "kl_tf": kl_tf,
        "kl_ar": kl_ar,
        "mismatch_at": kl_ar - kl_tf,
        "alive": alive,
        "tv": mean(sums["free_running"].distance),
        "off_corpus": 1 - mean(sums["unconstrained"].valid),
    }


@dataclass(frozen=True, slots=True)
class _Means:
    """From values of queries [B, ...] to means over each replication's [R, ...]."""

    replications: int

    def __call__(self, values: Tensor) -> Floats:
        shaped = values.double().view(self.replications, -1, *values.shape[1:])
        means: Floats = shaped.mean(dim=1).numpy()
        return means


def _at_rows(batch: PackedBatch, values: Tensor, row: Tensor | None = None) -> Tensor:
    """[B] values of nodes (or of whatever `row` says) summed over each query."""
    rows = batch.node_row if row is None else row
    return torch.zeros(len(batch.query_ids), dtype=torch.float64).index_add(0, rows, values.double())


def _ends(batch: PackedBatch) -> Tensor:
    """[M] True where a docID ends."""
    return batch.node_depth == batch.node_depth.max()


def _greedy(corpus: PackedBatch, logprobs: Tensor) -> Tensor:
    """[M] True on the path of greedy decoding within the corpus."""
    return visited(corpus, family_argmax(corpus, trie_logprobs(corpus, logprobs)[None]))[0]


def _accuracy(batch: PackedBatch, output: NodeOutput) -> Tensor:
    """[B] the share of the top docID's tokens that are the likeliest of all after its prefix."""
    return torch.tensor(teacher_forced(batch, output, top_docs(batch))[1]).double().mean(dim=1)


def _ranking(batch: PackedBatch, scores: Tensor, mean: _Means) -> dict[str, Floats]:
    """NDCG and R@k over the whole corpus, by exact scores [D]."""
    count = torch.bincount(batch.doc_query).tolist()
    rows = []
    parts = (torch.split(values, count) for values in (scores, batch.doc_rank, batch.doc_negative))
    for own, ranks, negative in zip(*parts, strict=True):
        judged = JudgedQuery(own.numpy(), ranks.numpy(), int(negative.sum()))
        found = query_metrics(judged, CUTOFFS)
        rows.append([found["ndcg"], *(found[f"recall@{k}"] for k in CUTOFFS)])
    names = ("ndcg", *(f"recall@{k}" for k in CUTOFFS))
    return dict(zip(names, mean(torch.tensor(rows)).T, strict=True))


def references(tests: Sequence[TestQueries], vocabulary: int) -> dict[str, dict[str, Floats]]:
    """The measures of rows that nothing was trained for.

    chance: every token alike. modal token: how often each token stands at a position of the training queries' top
    docIDs, whatever the query and the prefix. oracle: the target itself.
    """
    rows = {"chance": _chance, "modal token": _modal, "oracle": _oracle}
    return {
        name: joined([measures(some, _read(some, make(some, vocabulary))) for some in tests])
        for name, make in rows.items()
    }


def _read(tests: TestQueries, logits: Tensor) -> NodeOutput:
    """What a model with these logits [R, N, V] gives."""
    plan, token = tests.plan, tests.batch.node_token
    logprobs = logits.log_softmax(dim=-1)[plan.replication, plan.place, token.clamp(min=0)]
    return NodeOutput(torch.where(token >= 0, logprobs, 0.0), logits, plan.replication, plan.place)


def _chance(tests: TestQueries, vocabulary: int) -> Tensor:
    return torch.zeros(len(tests.numbers), int(tests.plan.place.max()) + 1, vocabulary)


def _modal(tests: TestQueries, vocabulary: int) -> Tensor:
    gold = torch.tensor(tests.gold)  # [R, Q, L]
    counts = torch.nn.functional.one_hot(gold, vocabulary).sum(dim=1).transpose(0, 1)  # [L, R, V]
    logits, plan = _chance(tests, vocabulary), tests.plan
    nodes = (tests.batch.node_token >= 0).nonzero()[:, 0]
    step, owner, place = tests.batch.node_depth[nodes] - 1, plan.replication[nodes], plan.place[nodes]
    logits[owner, place] = (counts[step, owner] + 1e-3).log()
    return logits


def _oracle(tests: TestQueries, vocabulary: int) -> Tensor:
    logits, plan = _chance(tests, vocabulary) - 60, tests.plan
    nodes = (tests.batch.node_target > 0).nonzero()[:, 0]
    logits[plan.replication[nodes], plan.place[nodes], tests.batch.node_token[nodes]] = tests.batch.node_target[
        nodes
    ].log()
    return logits
