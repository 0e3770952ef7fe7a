"""A margin between the scores of a query's docIDs and those of negatives, on the evaluation's own score.

Dimension letters: D docIDs, L counted tokens of the longest, N pairs, M trie nodes, B queries. Scores are in nats.

A query violates the constraint where a negative scores above one of its documents (CVR). Here training asks for the
opposite: s(d) should exceed s(d-) by `margin`, or the pair's logistic loss be small. With `prefix`, so should the
scores of the first 1, 2, ... tokens (as LTRGR and RIPOR train), since a beam search drops a docID at the first of its
prefixes that others outscore.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from stoical.common.lazy import torch
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.scores import doc_scores
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_weight
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor

PairLoss = Literal["hinge", "logistic"]
Positives = Literal["top", "all"]


@dataclass
class MarginSettings(Method):
    """A margin between the scores of documents and of negatives, beside the loss."""

    trains_on_score: ClassVar[bool] = True

    weight: float = option(1.0, "of the mean over a query's pairs, in a loss that is SToICaL's + weight * the term")
    kind: PairLoss = option("hinge", "hinge: max(0, margin - s(d) + s(d-)); logistic: -log sigmoid(s(d) - s(d-))")
    margin: float | None = option(None, "of kind=hinge, in nats of the score")
    positives: Positives = option("all", "which docIDs are to be above the negatives: those of rank 1, or all")
    prefix: bool = option(
        False, "pairs of prefixes, too, since a beam search drops a docID at the first prefix that others outscore"
    )

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        pair = "max(0, margin - s(d) + s(d-))" if self.kind == "hinge" else "-log sigmoid(s(d) - s(d-))"
        prefixes = ", and of their prefixes" if self.prefix else ""
        return f"`weight * mean {pair}` over a query's pairs of a document d and a negative d-{prefixes}, s the score"

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense, is missing, or set but without effect."""
        check_weight("margin", self.weight)
        if (self.kind == "hinge") != (self.margin is not None):
            raise ValueError("mitigations.margin.margin goes with kind=hinge: set it there, null with logistic")
        if self.margin is not None and not 0 < self.margin < float("inf"):
            raise ValueError(f"mitigations.margin.margin={self.margin} must be a finite number above 0 (nats)")

    def needs_negatives(self) -> str | None:
        """Always."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return Margin(self, score)


def doc_pairs(batch: PackedBatch, positives: Positives) -> tuple[Tensor, Tensor]:
    """[N], [N] places among the D docIDs: every pair of a positive and a negative of the same query."""
    chosen = ~batch.doc_negative
    if positives == "top":
        chosen &= batch.doc_rank == 1
    above, below = chosen.nonzero()[:, 0], batch.doc_negative.nonzero()[:, 0]
    first, second = (batch.doc_query[above][:, None] == batch.doc_query[below]).nonzero(as_tuple=True)
    return above[first], below[second]


def have_parted(batch: PackedBatch, above: Tensor, below: Tensor, depth: int) -> Tensor:
    """[N] do both docIDs of the pair have `depth` counted tokens, not all the same, and one of them more?

    Where neither has more, this is the pair of the whole docIDs.
    """
    length, node = (batch.doc_path >= 0).sum(dim=1), batch.doc_path[:, depth - 1]
    shorter, longer = torch.minimum(length[above], length[below]), torch.maximum(length[above], length[below])
    return (shorter >= depth) & (longer > depth) & (node[above] != node[below])


def score_differences(
    batch: PackedBatch, node_logprobs: Tensor, score: Reduction, above: Tensor, below: Tensor, prefix: bool
) -> tuple[Tensor, Tensor]:
    """s(above) - s(below), [N], and the query of each; with `prefix`, those of their prefixes follow."""
    whole = doc_scores(batch, node_logprobs, score)
    differences, queries = [whole[above] - whole[below]], [batch.doc_query[above]]
    for depth in range(1, batch.doc_path.shape[1] if prefix else 1):
        kept = have_parted(batch, above, below, depth)
        partial = doc_scores(replace(batch, doc_path=batch.doc_path[:, :depth]), node_logprobs, score)
        differences.append(partial[above[kept]] - partial[below[kept]])
        queries.append(batch.doc_query[above[kept]])
    return torch.cat(differences), torch.cat(queries)


def pair_losses(differences: Tensor, kind: PairLoss, margin: float | None) -> Tensor:
    """The loss of each pair, in nats, for s(d) - s(d-) of any shape."""
    if kind == "logistic":
        return torch.nn.functional.softplus(-differences)
    assert margin is not None
    return (margin - differences).clamp(min=0)


@dataclass(frozen=True)
class Margin(Objective):
    """Beside SToICaL: each query's mean over its pairs, 0 for one without negatives. `score` is the evaluation's."""

    settings: MarginSettings
    score: Reduction

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries, in nats. `outranked`: the share of pairs whose negative is not below."""
        batch, settings = context.batch, self.settings
        above, below = doc_pairs(batch, settings.positives)
        differences, query = score_differences(batch, context.node_logprobs, self.score, above, below, settings.prefix)
        losses = pair_losses(differences, settings.kind, settings.margin)
        term = (losses / query.bincount(minlength=len(batch.query_ids))[query]).sum()
        outranked = (differences[: len(above)] <= 0).float().mean() if len(above) else torch.zeros(())
        logs = {"margin": float(term.detach()) / len(batch.query_ids), "outranked": float(outranked)}
        return ObjectiveOutput(settings.weight * term, logs)
