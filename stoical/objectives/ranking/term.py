"""A ranking loss as a term of the training loss."""

from __future__ import annotations

from dataclasses import dataclass

from stoical.decoding.scores import doc_scores
from stoical.objectives.objective import Objective, ObjectiveOutput, StepContext
from stoical.objectives.ranking.lists import Lists, make_lists
from stoical.objectives.ranking.losses import LOSSES
from stoical.objectives.ranking.settings import RankingSettings


@dataclass(frozen=True)
class RankingTerm(Objective):
    """The ranking loss of each query times the query's weight in the data, by the recipe's `loss.ranking*`."""

    settings: RankingSettings

    @property
    def needs_reference(self) -> bool:
        """As the loss says."""
        return LOSSES[str(self.settings.ranking)].needs_reference

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries, in the loss's own unit."""
        values = LOSSES[str(self.settings.ranking)].value(self._lists(context))
        total = (context.batch.query_weight * values).sum()
        logs = {"ranking_loss": float(values.detach().mean())}
        weight = self.settings.ranking_weight
        return ObjectiveOutput(total if weight is None else weight * total, logs)

    def _lists(self, context: StepContext) -> Lists:
        settings, batch = self.settings, context.batch
        reference = None
        if self.needs_reference:
            logprobs = context.reference(batch).logprobs
            reference = doc_scores(batch, logprobs, settings.ranking_score) / settings.ranking_temperature
        return make_lists(
            batch,
            doc_scores(batch, context.node_logprobs, settings.ranking_score) / settings.ranking_temperature,
            settings.ranking_gain,
            reference,
            context.step,
            settings.ranking_samples,
        )
