"""The paper's loss: SToICaL (Eq. 11), for every variant of its weights.

Dimension letters: M trie nodes. Log-probabilities are float32 and in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.layouts import Layout
from stoical.objectives.objective import (
    Normalizer,
    Objective,
    ObjectiveOutput,
    StepContext,
    divided,
    loss_weights,
    normalizer,
    weighted_nll,
)
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stoical.models.forward import NodeOutput


@dataclass(frozen=True)
class SToICaLLoss(Objective):
    """The paper's loss (Eq. 11), with the node weights that the collator packed; `reach` multiplies in v(u).

    settings: those that the collator has; the batch carries its weights, so others here would change nothing but
    `visits=reach`. normalizer: what `mean` divides by; a trainer of stoical's divides by the whole global batch
    instead. Raises `ValueError` for settings that make no sense.

        settings = TargetSettings(item="fractional", alpha=2.0)
        batch = TrieTargetCollator(settings)(queries)["batch"]
        SToICaLLoss(settings).mean(model, batch).backward()
    """

    settings: TargetSettings
    normalizer: Normalizer = "points"
    needs_whole_trie: ClassVar[bool] = False  # what carries no weight may be left out

    def __post_init__(self) -> None:
        self.settings.check()
        if self.normalizer not in get_args(Normalizer):
            raise ValueError(f"normalizer={self.normalizer!r} must be one of {', '.join(get_args(Normalizer))}")

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch, in nats."""
        return ObjectiveOutput(weighted_nll(context.node_logprobs, loss_weights(context, self.settings)))

    def mean(self, model: nn.Module, batch: PackedBatch, layout: Layout = "sequence") -> Tensor:
        """One forward pass of `model` over the batch, and its loss: a scalar, in nats per unit of the normalizer.

        The batch must be on the model's device (`batch.to(model.device)`). Raises `ValueError` for a model that a trie
        cannot be run through.
        """
        from stoical.models.checks import check_model
        from stoical.models.forward import node_logprobs

        if not isinstance(batch, PackedBatch):
            raise ValueError(f"the loss takes a PackedBatch, collate(queries)['batch'], not {type(batch).__name__}")
        check_model(model, batch.input_ids.shape[1])

        def run(other: PackedBatch) -> NodeOutput:
            return node_logprobs(model, other, layout)

        context = StepContext(batch, run(batch), step=0, forward=run, predict=run)
        return divided(self(context).loss_sum, normalizer(batch, self.normalizer))
