"""The exact block's training: all replications at once, by the library's objectives.

Dimension letters: R replications, Q queries of each, training queries first; B queries of a batch, M trie nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.forward import NodeOutput
from stoical.objectives.build import MitigationSettings, build_objectives
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSamplingSettings
from stoical.objectives.objective import Objective, StepContext, weighted_nll
from stoical.objectives.settings import LossSettings
from stoical.studies.mismatch.methods import Trial
from stoical.studies.mismatch.models import Recurrent
from stoical.studies.mismatch.settings import ExactSettings
from stoical.studies.mismatch.worlds import World, generator
from stoical.trie.node_weights import TargetSettings

ITERATIONS = 3  # of BASH; the first is teacher forcing
DRAWS, ORDER, INIT, SAMPLES = range(10, 14)  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Task:
    """R replications: their worlds, and how to train on them."""

    worlds: list[World]
    settings: ExactSettings
    vocabulary: int
    seed: int

    @property
    def features(self) -> Tensor:
        """[R, Q, F] of every query."""
        return torch.from_numpy(np.stack([world.features for world in self.worlds])).float()

    def model(self) -> Recurrent:
        """The model before training; the same for every method."""
        length = self.worlds[0].docids.shape[1]
        settings = self.settings
        return Recurrent(self.features, self.vocabulary, length, settings.hidden, self.seed + INIT, settings.shared)

    def batches(self, loss: TargetSettings, negatives: bool) -> list[PackedBatch]:
        """The training queries in batches, some queries of every replication in each, as one list of rows."""
        settings, found = self.settings, []
        collate = TrieTargetCollator(loss, prune=False)
        for first in range(0, settings.queries, settings.batch):
            rows = []
            for number, world in enumerate(self.worlds):
                for place in range(first, first + settings.batch):
                    off = self._off_list(number, place) if negatives else ()
                    rows.append(world.query(place, str(number * len(world.features) + place), off))
            found.append(collate(rows)["batch"])
        return found

    def _off_list(self, number: int, place: int) -> np.ndarray:
        random = generator(self.seed, DRAWS, number, place)
        return random.choice(self.worlds[number].off_list(place), self.settings.negatives, replace=False)

    def order(self) -> Iterator[int]:
        """Places of batches, epoch after epoch, each in an order of its own."""
        count, random = self.settings.queries // self.settings.batch, generator(self.seed, ORDER)
        while True:
            yield from random.permutation(count).tolist()


def part_of(task: Task, number: int) -> Task:
    """One replication of a task."""
    return replace(task, worlds=[task.worlds[number]])


def train(task: Task, trial: Trial, batches: list[PackedBatch], shown: Callable[[], None] = lambda: None) -> Recurrent:
    """The model after the task's steps of a trial. `shown` is called after every step."""
    torch.manual_seed(task.seed + SAMPLES)
    settings, model, order = task.settings, task.model(), task.order()
    for batch in batches:
        model.remember(batch)
    objectives = build_objectives(loss_settings(trial), trial.mitigations)
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.rate * settings.learning_rate, fused=True)
    written: Mapping[int, Tensor] = {}
    for step in range(settings.steps):
        if trial.bash is not None and step and step % -(-settings.steps // ITERATIONS) == 0:
            written = {place: own_weights(model, batch, trial) for place, batch in enumerate(batches)}
        place = next(order)
        batch = batches[place]
        output = model(batch)
        if written and step % 2:
            loss = weighted_nll(output.logprobs, written[place])
        else:
            loss = objective_sum(objectives, context_of(model, batch, output, step, settings.steps))
        optimizer.zero_grad()
        (loss / settings.batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for objective in objectives.values():
            objective.after_step()
        shown()
    return model


def loss_settings(trial: Trial) -> LossSettings:
    """A trial's loss as a recipe has it."""
    return LossSettings(**asdict(trial.loss))


def objective_sum(objectives: Mapping[str, Objective], context: StepContext) -> Tensor:
    """The sum of the terms over the batch, nats."""
    return torch.stack([objective(context).loss_sum for objective in objectives.values()]).sum()


def context_of(model: Recurrent, batch: PackedBatch, output: NodeOutput, step: int, steps: int) -> StepContext:
    """What the library's objectives see of one step."""
    return StepContext(batch, output, step, forward=model, predict=torch.no_grad()(model), run_steps=steps)


def own_weights(model: Recurrent, batch: PackedBatch, trial: Trial) -> Tensor:
    """[M] BASH's node weights: of prefixes that the model, as it is, writes with the expert, each with its own target.

    That is a draw of scheduled sampling at a fixed share; the weights are minus the gradient of its loss.
    """
    assert trial.bash is not None
    drawing = ScheduledSamplingSettings(schedule="constant", minimum=1 - trial.bash)
    objectives = build_objectives(loss_settings(trial), MitigationSettings(scheduled_sampling=drawing))
    with torch.no_grad():
        output = model(batch)
    output = replace(output, logprobs=output.logprobs.requires_grad_())
    loss = objective_sum(objectives, context_of(model, batch, output, 0, 1))
    return -torch.autograd.grad(loss, output.logprobs)[0]
