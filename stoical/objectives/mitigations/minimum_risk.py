"""Minimum risk training over an n-best list (Shen et al. 2016, Edunov et al. 2018), on a trie.

Dimension letters: M trie nodes, B queries. log p~ are summed `walks.trie_logprobs`, in nats; risks have no unit.

The list S is what a beam search within the trie finds, which is a walk over one forward's log-probabilities, and the
best-ranked docIDs. With a list as long as the trie and alpha = 1 this is `expected_reward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stoical.common.lazy import torch
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import listed, path_sums, trie_logprobs
from stoical.encoding.packing import PackedBatch
from stoical.objectives.mitigations.rewards import Reward, docid_rewards, leaves
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_at_least, check_weight
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MinimumRiskSettings(Method):
    """The expected risk of an n-best list beside the loss."""

    follows_reward: ClassVar[bool] = True

    weight: float = option(1.0, "of the term, per query, in a loss that is SToICaL's + weight * the term")
    reward: Reward = option(
        "target",
        "what a docID is worth: target (its share of the recipe's target), gain (in nDCG) or prefix_credit "
        "(`rewards.docid_rewards`); the risk is 1 minus it",
    )
    beams: int = option(4, "length of the list that a beam search finds")
    alpha: float = option(1.0, "how sharply Q follows the model (`risk`)")

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        return (
            "`weight * sum_{d in S} Q(d) (1 - R(d))`, Q(d) proportional to `p(d)^alpha`, over the docIDs S that a beam "
            "search within the trie finds and the best-ranked ones, R the reward"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        check_weight("minimum_risk", self.weight)
        check_at_least("minimum_risk", "beams", self.beams, 1)
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"mitigations.minimum_risk.alpha={self.alpha} must be a finite number above 0")

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return MinimumRisk(self)


def best_of_each_query(batch: PackedBatch, among: Tensor, values: Tensor, limit: int) -> Tensor:
    """[M] is the node one of the `limit` of its query with the largest `values` [M], of those set in `among` [M]?"""
    nodes = among.nonzero()[:, 0]
    nodes = nodes[values[nodes].argsort(descending=True, stable=True)]
    nodes = nodes[batch.node_row[nodes].argsort(stable=True)]
    count = batch.node_row[nodes].bincount(minlength=len(batch.query_ids))
    place = torch.arange(len(nodes), device=nodes.device) - (count.cumsum(0) - count)[batch.node_row[nodes]]
    best = torch.zeros_like(among)
    best[nodes[place < limit]] = True
    return best


def beam_search(batch: PackedBatch, path_logps: Tensor, beams: int) -> Tensor:
    """[M] the leaves of each query's `beams` best docIDs that a constrained beam search of that width finds.

    path_logps [M] are log p~ of every prefix. As in `decoding.beam_search`, the `beams` best nodes of a depth that go
    on live on, and a docID that ends takes no beam from them.
    """
    ends, found = leaves(batch), torch.zeros_like(batch.node_token, dtype=torch.bool)
    alive = batch.node_token < 0
    for depth in range(1, int(batch.node_depth.max()) + 1):
        children = (batch.node_depth == depth) & alive[batch.node_parent] & listed(batch)
        found |= children & ends
        alive = best_of_each_query(batch, children & ~ends, path_logps, beams)
    return best_of_each_query(batch, found, path_logps, beams)


def risk(batch: PackedBatch, path_logps: Tensor, candidates: Tensor, risks: Tensor, alpha: float) -> Tensor:
    """[B] each query's mean risk over S under Q(d) = p~(d)^alpha / sum over S of p~^alpha. Differentiable.

    candidates [M] marks the leaves in S, at least one a query; risks [M]. The gradient for log p~(d) is
    alpha Q(d) (risk(d) - the query's risk).
    """
    row, queries = batch.node_row, len(batch.query_ids)
    scores = (alpha * path_logps).masked_fill(~candidates, -torch.inf)
    top = scores.new_full((queries,), -torch.inf).scatter_reduce(0, row, scores.detach(), "amax")
    odds = (scores - top[row]).exp()
    total = odds.new_zeros(queries).index_add(0, row, odds)
    return odds.new_zeros(queries).index_add(0, row, odds / total[row] * risks)


@dataclass(frozen=True)
class MinimumRisk(Objective):
    """Beside SToICaL: the expected risk of every query over its n-best list and its best-ranked docIDs."""

    settings: MinimumRiskSettings

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries; no unit."""
        batch, settings = context.batch, self.settings
        path_logps = path_sums(batch, trie_logprobs(batch, context.node_logprobs))
        with torch.no_grad():
            best_rank = batch.node_rank[batch.node_token < 0]  # roots, in the order of the queries
            gold = leaves(batch) & (batch.node_rank == best_rank[batch.node_row])
            candidates = beam_search(batch, path_logps, settings.beams) | gold
            risks = 1 - docid_rewards(batch, settings.reward)
        risks_of_queries = risk(batch, path_logps, candidates, risks, settings.alpha)
        logs = {
            "risk": float(risks_of_queries.detach().mean()),
            "candidate_mass": float(path_logps.detach()[candidates].exp().sum() / len(batch.query_ids)),
        }
        return ObjectiveOutput(settings.weight * risks_of_queries.sum(), logs)
