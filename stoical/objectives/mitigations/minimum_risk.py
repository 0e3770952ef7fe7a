"""Minimum risk training over an n-best list (Shen et al. 2016, Edunov et al. 2018), on a trie.

Dimension letters: M trie nodes, B queries. log p~ are summed `walks.trie_logprobs`, in nats; risks have no unit.

The list S is what a beam search within the trie finds, which is a walk over one forward's log-probabilities, and the
best-ranked docIDs. With a list as long as the trie and alpha = 1 this is `expected_reward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stoical.common.lazy import torch
from stoical.common.numbers import above_zero
from stoical.common.options import option
from stoical.decoding.beams import beam_on_nodes, rank_in_group
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import listed, path_sums, trie_logprobs
from stoical.encoding.packed_batch import PackedBatch
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
        above_zero("mitigations.minimum_risk.alpha", self.alpha)

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return MinimumRisk(self)


def beam_search(batch: PackedBatch, path_logps: Tensor, beams: int) -> Tensor:
    """[M] True at the leaves of each query's `beams` best docIDs that a constrained beam search of that width finds.

    path_logps [M] are log p~ of every prefix. Pruning and ties are those of `beam_search.beam_search`.
    """
    live = beam_on_nodes(batch, path_logps, beams, among=listed(batch))
    found = (leaves(batch) & live[batch.node_parent]).nonzero()[:, 0]
    best = torch.zeros_like(live)
    best[found] = rank_in_group(batch.node_row[found], path_logps[found]) < beams
    return best


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
