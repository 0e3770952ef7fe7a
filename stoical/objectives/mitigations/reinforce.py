"""REINFORCE on a trie (Williams 1992), with the baselines of self-critical training and of leave-one-out.

Dimension letters: M trie nodes, B queries, K walks a query, T tokens of the longest docID. Rewards have no unit.

A walk is a docID that the model, decoding within the trie, would write; its gradient is (R - b) grad log p~(d). Both
are functions of one forward's node log-probabilities: a sample costs no decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from stoical.common.lazy import torch
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import family_argmax, gumbel, trie_logprobs, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.mitigations.rewards import Reward, best_below, docid_rewards, expected_reward, leaves
from stoical.objectives.objective import (
    Method,
    Objective,
    ObjectiveOutput,
    StepContext,
    check_at_least,
    check_weight,
    weighted_nll,
)
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Literal["leave_one_out", "greedy"]
Shaping = Literal["none", "potential"]


@dataclass
class PolicySettings:
    """How walks are drawn, paid and compared."""

    reward: Reward = option(
        "target",
        "what a docID is worth: target (its share of the recipe's target), gain (in nDCG) or prefix_credit "
        "(`rewards.docid_rewards`)",
    )
    samples: int = option(4, "walks a query and step")
    baseline: Baseline = option(
        "leave_one_out", "what a return is compared with: the mean of the other walks, or the greedy walk's"
    )
    shaping: Shaping = option("none", "potential spreads the reward over the tokens (`returns_to_go`)")

    def check_policy(self, method: str) -> None:
        """Raise `ValueError` where there are too few walks."""
        check_at_least(method, "samples", self.samples, 2 if self.baseline == "leave_one_out" else 1)


@dataclass
class ReinforceSettings(PolicySettings, Method):
    """REINFORCE beside the loss."""

    follows_reward: ClassVar[bool] = True

    weight: float = option(1.0, "of the term, per query, in a loss that is SToICaL's + weight * the term")

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        return (
            "`weight * -mean_k (R(d_k) - b_k) log p(d_k)` over docIDs d_k that the model writes within the trie, R the "
            "reward and b a baseline"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        check_weight("reinforce", self.weight)
        self.check_policy("reinforce")

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return Reinforce(self)


def returns_to_go(batch: PackedBatch, walks: Tensor, rewards: Tensor, shaping: Shaping) -> Tensor:
    """[K, B, T] what `walks` [K, M] earn from each step on, for `rewards` [M] at the leaves.

    Unshaped, that is R(d) at every step. With `potential`, a step from node u to n earns Phi(n) - Phi(u), where Phi is
    the best reward at or below a node, and 0 at the root: the sum is R(d), what is left after u is R(d) - Phi(u), and
    the expected gradient is the same (Ng et al. 1999), because Phi(u) does not depend on the step taken at u.
    """
    total = rewards.new_zeros(len(walks), len(batch.query_ids))
    total = total.index_add(1, batch.node_row, torch.where(walks, rewards, 0.0))
    steps = int(batch.node_depth.max())
    returns = total[..., None].expand(-1, -1, steps)
    if shaping == "none":
        return returns
    inner = (~leaves(batch)).nonzero()[:, 0]
    inner = inner[batch.node_depth[inner] < steps]
    place = (batch.node_row * steps + batch.node_depth)[inner]  # of the step that is taken at the node
    potential = torch.where(batch.node_token < 0, 0.0, best_below(batch, rewards))
    empty = rewards.new_zeros(len(walks), returns[0].numel())
    held = empty.index_add(1, place, torch.where(walks, potential, 0.0)[:, inner]).view_as(returns)
    going = empty.index_add(1, place, walks[:, inner].to(empty.dtype)).view_as(returns) > 0
    return torch.where(going, returns - held, 0.0)


def advantages(batch: PackedBatch, returns: Tensor, baseline: Tensor) -> Tensor:
    """[K, M] returns - baseline, both [K, B, T], at the nodes that the steps lead to; roots get that of step 1."""
    return (returns - baseline)[:, batch.node_row, (batch.node_depth - 1).clamp(min=0)]


def leave_one_out(returns: Tensor) -> Tensor:
    """[K, B, T] for each walk the mean return of the other K - 1 walks of its query (Kool et al. 2019)."""
    return (returns.sum(dim=0) - returns) / (len(returns) - 1)


def policy_loss(batch: PackedBatch, trie_logps: Tensor, walks: Tensor, advantage: Tensor) -> Tensor:
    """A scalar, summed over queries, whose gradient is the mean over walks of -sum_t advantage_t grad log p~_t.

    trie_logps [M] are `walks.trie_logprobs`; the steps that count are the nodes set in `walks` [K, M].
    """
    share = torch.where(walks, advantage, 0.0).mean(dim=0)
    return weighted_nll(torch.where(share != 0, trie_logps, 0.0), share)


def policy_gradient(
    batch: PackedBatch, node_logprobs: Tensor, settings: PolicySettings, forced: Tensor, gold: Tensor
) -> ObjectiveOutput:
    """The loss and logs of K walks a query that follow `gold` [1, M] for `forced` [B] steps and the model from there.

    Steps that were forced carry no loss.
    """
    logps = trie_logprobs(batch, node_logprobs)
    with torch.no_grad():
        rewards = docid_rewards(batch, settings.reward)
        led = batch.node_depth < forced[batch.node_row]
        sampled = family_argmax(batch, gumbel(logps, settings.samples))
        walks = visited(batch, torch.where(led, gold, sampled))
        returns = returns_to_go(batch, walks, rewards, settings.shaping)
        if settings.baseline == "greedy":
            best = visited(batch, torch.where(led, gold, family_argmax(batch, logps[None])))
            baseline = returns_to_go(batch, best, rewards, settings.shaping).expand_as(returns)
        else:
            baseline = leave_one_out(returns)
        advantage = advantages(batch, returns, baseline)
        own = walks & (batch.node_depth > forced[batch.node_row])
        logs = {
            "reward": float(torch.where(walks, rewards, 0.0).sum() / walks[:, batch.node_token < 0].sum()),
            "baseline": float(baseline[..., 0].mean()),
            "advantage_sd": float(advantage[own].std(correction=0)) if own.any() else 0.0,
            "expected_reward": float(expected_reward(batch, node_logprobs, rewards).mean()),
        }
    return ObjectiveOutput(policy_loss(batch, logps, own, advantage), logs)


@dataclass(frozen=True)
class Reinforce(Objective):
    """Beside SToICaL: the policy gradient of walks from the root."""

    settings: ReinforceSettings

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries; no unit."""
        batch = context.batch
        none, nothing = torch.zeros_like(batch.prompt_lengths), torch.full_like(batch.node_token, -1)[None]
        term = policy_gradient(batch, context.node_logprobs, self.settings, forced=none, gold=nothing)
        return ObjectiveOutput(self.settings.weight * term.loss_sum, term.logs)
