"""MIXER (Ranzato et al. 2016) on a trie: from teacher forcing to REINFORCE, a token at a time from the docID's end.

Dimension letters: M trie nodes, B queries.

The first s tokens of the top docID are taught as the recipe does; from there the model walks on by itself and is paid
for the docID that it reaches. s starts at the docID's length and falls, so that the policy gradient begins where the
model is good already. Where several docIDs share the first rank, each is taught and walked on from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from stoical.common.lazy import torch
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import gold_child, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.mitigations.reinforce import PolicySettings, policy_gradient
from stoical.objectives.mitigations.schedules import check_span, in_steps
from stoical.objectives.mitigations.top_docids import Apart, take_apart
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_at_least, weighted_nll
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MixerSettings(PolicySettings, Method):
    """From teacher forcing to REINFORCE, a token at a time from the docID's end."""

    replaces_loss: ClassVar[bool] = True
    follows_reward: ClassVar[bool] = True
    spans: ClassVar[tuple[str, ...]] = ("warmup", "stage")

    warmup: float = option(0, "optimizer steps of teacher forcing alone; below 1: a share of the run")
    stage: float = option(100, "optimizer steps until one more token is the model's; below 1: a share of the run")
    forced: int = option(
        0,
        "tokens that are taught to the end of the run, at least. 0 is the paper's; but where no token is taught, "
        "nothing says that invalid tokens are wrong",
    )

    @property
    def summary(self) -> str:
        """What it trains in place of the loss, in one line for the model card."""
        return (
            "in place of the loss on the top docID's path: that loss on its first s tokens, s falling during training, "
            "and after them `-(R(d) - b) log p(d)` for docIDs d that the model writes, R the reward and b a baseline"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        self.check_policy("mixer")
        if self.warmup:
            check_span("mitigations.mixer", "warmup", self.warmup)
        check_span("mitigations.mixer", "stage", self.stage)
        check_at_least("mixer", "forced", self.forced, 0)

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return Mixer(self)


def own_tokens(step: int, warmup: int, stage: int) -> int:
    """How many of a docID's last tokens REINFORCE has at an optimizer step: 0 in warm-up, then one more a stage."""
    return 0 if step < warmup else 1 + (step - warmup) // stage


def forced_steps(batch: PackedBatch, own: int, at_least: int) -> Tensor:
    """[B] s: the top docID's length without its `own` last tokens, though `at_least` so many while it has them."""
    gold = visited(batch, gold_child(batch))[0] & (batch.node_token >= 0)
    length = torch.zeros_like(batch.prompt_lengths).index_add(0, batch.node_row, gold.long())
    return torch.minimum(length, (length - own).clamp(min=at_least))


def taught_weights(batch: PackedBatch, apart: Apart, forced: Tensor) -> Tensor:
    """[M] the recipe's weight of each node, as far as it comes from top docIDs whose first `forced` [R] steps go there.

    Where one docID is the top one, all of the weight on its first steps and none below.
    """
    one = apart.batch
    weighted = one.node_weights > 0
    within = weighted & (one.node_depth <= forced[one.node_row])
    share = apart.summed(within.float()) / apart.summed(weighted.float()).clamp(min=1)
    return batch.node_weights * share


@dataclass(frozen=True)
class Mixer(Objective):
    """In place of the loss on the top docID's path: that loss on the first s steps, REINFORCE on the rest."""

    settings: MixerSettings

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch; nats for the taught steps, no unit for the others."""
        batch, settings = context.batch, self.settings
        warmup, stage = (in_steps(span, context.run_steps) for span in (settings.warmup, settings.stage))
        own = own_tokens(context.step, warmup, stage)
        apart = take_apart(batch)
        forced = forced_steps(apart.batch, own, settings.forced)
        taught = weighted_nll(context.node_logprobs, taught_weights(batch, apart, forced))
        logs = {"forced_steps": float(forced.float().mean())}
        if own == 0:
            return ObjectiveOutput(taught, logs)
        walked = replace(apart.batch, node_rank=batch.node_rank[apart.origin])  # rewards are by the ranks as they are
        logprobs = context.node_logprobs[apart.origin]
        rest = policy_gradient(walked, logprobs, settings, forced, gold_child(apart.batch))
        return ObjectiveOutput(taught + rest.loss_sum, logs | rest.logs)
