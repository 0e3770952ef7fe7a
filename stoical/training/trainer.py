"""A thin `transformers.Trainer`: the sum of the objectives, one normalizer, and evaluation by ranking metrics."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from stoical.encoding.packed_batch import PackedBatch
from stoical.models.forward import NodeOutput, node_logprobs
from stoical.models.layouts import Layout
from stoical.models.modes import eval_mode
from stoical.models.reading import Keep
from stoical.models.reference import Reference
from stoical.models.self_check import self_check
from stoical.objectives.objective import Normalizer, Objective, StepContext, divided, normalizer
from stoical.training.callbacks import AfterStep, EpochShuffle
from stoical.training.loader import Ahead, look_ahead
from stoical.training.micro_batches import parts_of
from stoical.training.ragged_epochs import deal_exactly
from stoical.training.run_trainer import RunTrainer
from stoical.training.throughput import Throughput

logger = logging.getLogger(__name__)

OBJECTIVES_FILE = "objectives.pt"  # in a checkpoint, where an objective keeps something


class StoicalTrainer(RunTrainer):
    """Trains on `PackedBatch`es. The loss is sum(objectives) / normalizer, both over the global batch.

    The global batch is all processes and all accumulation steps; DDP, FSDP and DeepSpeed average gradients over
    processes, so the loss is multiplied by their number. Every other argument is `RunTrainer`'s.
    """

    train_dataset: Any
    data_collator: Any
    loss_is_scaled_for_ga = True  # `_get_num_items_in_batch` counts the whole accumulation window

    def __init__(
        self,
        *,
        objectives: Mapping[str, Objective],
        loss_normalizer: Normalizer,
        layout: Layout,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.throughput = Throughput()
        for callback in (self.throughput, EpochShuffle, AfterStep(objectives.values())):
            self.add_callback(callback)
        self.objectives, self.loss_normalizer, self.layout = objectives, loss_normalizer, layout
        compares = any(objective.needs_reference for objective in objectives.values())
        self._reference = Reference(self.model) if compares else None
        self._checked = layout == "pointwise"
        self._pending: dict[str, list[float]] = defaultdict(list)
        self._dropped_docs = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, PackedBatch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This micro-batch's share of the global loss, in nats per unit of the normalizer."""
        assert not return_outputs and isinstance(num_items_in_batch, Tensor)
        batch = inputs["batch"]
        if not self._checked:
            self._self_check(model, batch)
        hidden = any(objective.needs_hidden for objective in self.objectives.values())
        keep: Keep = "logits" if any(objective.needs_logits for objective in self.objectives.values()) else "logprobs"
        output = node_logprobs(model, batch, self.layout, hidden=hidden, keep=keep)
        context = StepContext(
            batch=batch,
            output=output,
            step=self.state.global_step,
            forward=lambda other, mixture=None: node_logprobs(model, other, self.layout, mixture=mixture),
            predict=lambda other: self._predict(model, other),
            reference=lambda other: self._refer(model, other),
            run_steps=self.state.max_steps,
        )
        loss_sum = torch.zeros((), device=output.logprobs.device)
        for objective in self.objectives.values():
            term = objective(context)
            loss_sum = loss_sum + term.loss_sum
            for name, value in term.logs.items():
                self._pending[name] += [value] * (not batch.filler)
        self.losses.add(loss_sum, self.state.global_step + 1, batch.query_ids)
        if batch.filler:
            return loss_sum * 0.0  # as many passes as the other processes make, and no gradient
        self._dropped_docs += batch.num_dropped
        self.throughput.count(batch)
        return divided(loss_sum * self.accelerator.num_processes, num_items_in_batch)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a micro-batch, or of all of a process's share of the step; the loss, summed.

        DDP then averages gradients after the last alone. Every process makes as many passes.
        """
        if isinstance(inputs["batch"], PackedBatch):
            return super().training_step(model, inputs, num_items_in_batch)
        parts = inputs["batch"].filled_up(self._most(len(inputs["batch"].parts)))
        loss = torch.zeros((), device=self.args.device)
        for place, part in enumerate(parts, 1):
            waits = isinstance(model, DistributedDataParallel) and place < len(parts)
            with self.accelerator.no_sync(model) if waits else nullcontext():
                loss = loss + super().training_step(model, {"batch": part}, num_items_in_batch)
        return loss

    def _most(self, count: int) -> int:
        """The largest `count` of all processes."""
        if self.accelerator.num_processes == 1:
            return count
        mine = torch.tensor([count], device=self.accelerator.device)
        return int(self.accelerator.gather(mine).max())

    def _predict(self, model: nn.Module, batch: PackedBatch) -> NodeOutput:
        """A pass that samples are drawn from: no dropout, no embedding noise, no graph."""
        with eval_mode(model), torch.no_grad():
            return node_logprobs(model, batch, self.layout, keep="logits")

    def _refer(self, model: nn.Module, batch: PackedBatch) -> NodeOutput:
        """A pass of the model as it was before training, without a graph."""
        assert self._reference is not None
        with self._reference.of(model) as reference, eval_mode(reference), torch.no_grad():
            return node_logprobs(reference, batch, self.layout)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As transformers makes it, its batches made ahead in a thread where it has no workers of its own.

        With several processes, an epoch's last queries are trained on once.
        """
        loader = super().get_train_dataloader() if self.args.dataloader_num_workers else self._loader_ahead()
        if self.accelerator.num_processes > 1 and not self.args.dataloader_drop_last:
            deal_exactly(loader, self.accelerator.num_processes, self.accelerator.process_index)
        return loader

    def _loader_ahead(self) -> DataLoader[Any]:
        dataset, collator = self.train_dataset, self.data_collator
        self.train_dataset = self.data_collator = Ahead(dataset, collator, self.args.dataloader_pin_memory)
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator
        look_ahead(loader, self.args.gradient_accumulation_steps - 1)
        return loader

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        """The normalizer summed over the accumulation window and all processes."""
        parts = [part for sample in batch_samples for part in parts_of(sample["batch"])]
        counts = [normalizer(part, self.loss_normalizer).to(device) for part in parts]
        total = torch.stack(counts).sum() if counts else torch.zeros((), device=device)
        summed: Tensor = self.accelerator.reduce(total, reduction="sum")
        return summed

    def _self_check(self, model: nn.Module, batch: PackedBatch) -> None:
        """Compare the packed layout with plain forward passes on the first batch, once, and say the difference."""
        self._checked = True
        precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        difference = self_check(model, batch, self.layout, precision)
        if self.is_world_process_zero():
            logger.warning(
                f"self-check: {self.layout} and plain log-probabilities differ by at most {difference:.1e} nats"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the rates, what the objectives reported and the documents that truncation dropped, since the last log."""
        self._refuse_nan()
        if "loss" in logs:
            logs |= self.throughput.since_last_log(self.accelerator)
            logs |= {name: sum(values) / len(values) for name, values in self._pending.items()}
            self._pending.clear()
            if self._dropped_docs:
                logs["dropped_docs"] = float(self._dropped_docs)
                self._dropped_docs = 0
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """With them, what the objectives keep, by the section of the recipe that turns each of them on."""
        super()._save_optimizer_and_scheduler(output_dir)
        state = {name: one.state_dict() for name, one in self.objectives.items() if one.keeps_state}
        if state and self.args.should_save:
            torch.save(state, Path(output_dir) / OBJECTIVES_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Raises `ValueError` where the checkpoint's objectives are not those that this recipe has."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / OBJECTIVES_FILE
        kept = torch.load(path, map_location=self.args.device) if path.is_file() else {}
        wanted = {name for name, objective in self.objectives.items() if objective.keeps_state}
        if wanted != set(kept):
            raise ValueError(
                f"{checkpoint} holds the state of {', '.join(sorted(kept)) or 'no mitigation'} ({OBJECTIVES_FILE}), "
                f"and this recipe wants that of {', '.join(sorted(wanted)) or 'none'}. Give the mitigations that it "
                f"was trained with, or start a new run from its weights (model.name={checkpoint})"
            )
        for name, state in kept.items():
            self.objectives[name].load_state_dict(state)
