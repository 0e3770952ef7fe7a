"""Professor forcing (Lamb et al. 2016) on a trie: hidden states of free runs that look like those of teacher forcing.

Dimension letters: M trie nodes, B queries, T tokens of the longest docID, H the model's hidden size.

A discriminator tells led walks from the model's own by the hidden states that its tokens are read from; the model
learns, besides the loss, to be mistaken for led. Both walks go down one trie, so both lie in the one forward. Led walks
are drawn from the recipe's target: were they always the top docID's path, the model could fool the discriminator only
by writing that one docID and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stoical.common.lazy import torch
from stoical.common.numbers import above_zero, within
from stoical.common.options import option
from stoical.decoding.choices import Reduction
from stoical.decoding.walks import family_argmax, gold_child, gumbel, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.mitigations.consistency import free_run
from stoical.objectives.objective import Method, Objective, ObjectiveOutput, StepContext, check_at_least, check_weight
from stoical.trie.node_weights import TargetSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stoical.objectives.mitigations.discriminator import Opponent


@dataclass
class ProfessorForcingSettings(Method):
    """An adversarial term beside the loss, and the discriminator that it plays against."""

    packed_only: ClassVar[str | None] = "reads hidden states along two walks down one trie"

    weight: float = option(1.0, "of the term, per query, in a loss that is SToICaL's + weight * the term")
    teacher: Literal["target", "gold"] = option(
        "target", "led walks are drawn from the recipe's target, or are the top docID's path (gold)"
    )
    both_ways: bool = option(False, "led walks learn to look free, too (the paper's optional C_t)")
    floor: float = option(0.75, "the model learns from the discriminator while its running accuracy is above this")
    ceiling: float = option(0.99, "the discriminator learns while its running accuracy is below this")
    width: int = option(256, "of the discriminator's recurrent layer")
    learning_rate: float = option(1e-3, "the discriminator's")

    @property
    def summary(self) -> str:
        """What it adds to the loss, in one line for the model card."""
        return (
            "`weight * -log D(h)`, D a discriminator's probability that the hidden states h of the model's own walk are"
            " those of a led one"
        )

    def check(self) -> None:
        """Raise `ValueError` where a setting makes no sense."""
        check_weight("professor_forcing", self.weight)
        check_at_least("professor_forcing", "width", self.width, 2)
        for key in ("floor", "ceiling"):
            within(f"mitigations.professor_forcing.{key}", getattr(self, key))
        if self.floor > self.ceiling:
            raise ValueError(
                f"mitigations.professor_forcing.floor={self.floor} is above ceiling={self.ceiling}: the discriminator "
                "would stop learning before it may teach the model; swap them"
            )
        above_zero("mitigations.professor_forcing.learning_rate", self.learning_rate)

    def within_list(self) -> str | None:
        """Always: it draws docIDs of the list."""
        return ""

    def build(self, loss: TargetSettings, score: Reduction) -> Objective:
        """The objective of these settings."""
        return ProfessorForcing(self)


def led_walk(batch: PackedBatch, teacher: Literal["target", "gold"]) -> Tensor:
    """[M] the nodes of one walk a query: drawn from the target at every node, or the top docID's path."""
    drawn = gumbel(batch.node_target.log(), walks=1)
    return visited(batch, gold_child(batch) if teacher == "gold" else family_argmax(batch, drawn))[0]


def walk_states(context: StepContext, walk: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T, H] the hidden states that the tokens of `walk` [M] are read from, 0 after its end, and its lengths [B]."""
    batch = context.batch
    assert context.output.hidden is not None
    node = (walk & (batch.node_token >= 0)).nonzero()[:, 0]
    row, step = batch.node_row[node], batch.node_depth[node] - 1
    states = context.output.hidden[context.output.row[node], context.output.slot[node]]
    padded = states.new_zeros(len(batch.query_ids), int(batch.node_depth.max()), states.shape[1])
    return padded.index_put((row, step), states), row.bincount(minlength=len(batch.query_ids))


class ProfessorForcing(Objective):
    """Beside SToICaL: the term by which the model's own walks learn to look led, and the discriminator's training."""

    needs_hidden = True
    keeps_state = True

    def __init__(self, settings: ProfessorForcingSettings) -> None:
        self.settings = settings
        self._opponent: Opponent | None = None  # made at the first batch, which has the hidden size
        self._loaded: dict[str, Any] = {}

    def __call__(self, context: StepContext) -> ObjectiveOutput:
        """Sum over the micro-batch's queries, in nats; 0 while the discriminator is too weak to be learnt from."""
        batch, settings = context.batch, self.settings
        led = walk_states(context, led_walk(batch, settings.teacher))
        free = walk_states(context, free_run(batch, context.node_logprobs, "sampled"))
        opponent = self._opponent = self._opponent or self._make_opponent(led[0])
        lost = 0.0 if batch.filler else opponent.learn(*led, *free)
        logs = {"discriminator_loss": lost, "discriminator_accuracy": opponent.accuracy}
        if opponent.accuracy <= settings.floor:
            return ObjectiveOutput(torch.zeros_like(context.node_logprobs[0]), logs | {"adversarial_loss": 0.0})
        fooled = torch.nn.functional.softplus(-opponent.judge(*free)).sum()
        if settings.both_ways:
            fooled = fooled + torch.nn.functional.softplus(opponent.judge(*led)).sum()
        logs["adversarial_loss"] = float(fooled.detach()) / len(batch.query_ids)
        return ObjectiveOutput(settings.weight * fooled, logs)

    def _make_opponent(self, states: Tensor) -> Opponent:
        from stoical.objectives.mitigations.discriminator import Opponent  # a torch module, which imports torch

        opponent = Opponent(states.shape[-1], self.settings.width, self.settings.learning_rate, states.device)
        if self._loaded:
            opponent.load_state_dict(self._loaded)
        return opponent

    def after_step(self) -> None:
        """The discriminator steps when the model has."""
        assert self._opponent is not None
        self._opponent.step(self.settings.ceiling)

    def state_dict(self) -> dict[str, Any]:
        """The discriminator, its optimizer and its running accuracy; nothing before the first batch."""
        return self._opponent.state_dict() if self._opponent else self._loaded

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint, at the first batch if there is no discriminator yet."""
        self._loaded = state
        if self._opponent:
            self._opponent.load_state_dict(state)
