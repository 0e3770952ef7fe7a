"""A thin `transformers.Trainer`: the sum of the objectives, one normalizer, and evaluation by ranking metrics."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from transformers import Trainer, TrainerControl
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stoical.callbacks import AfterStep, EpochAndCadence
from stoical.evaluator import Evaluator
from stoical.forward import Layout, NodeOutput, node_logprobs, packed_difference
from stoical.loss_watch import LossWatch
from stoical.losses import Normalizer, Objective, StepContext, normalizer
from stoical.model_card import CardSource
from stoical.packing import PackedBatch
from stoical.progress import LogLines, MetricsFile, ProgressBar
from stoical.prompts import TEMPLATE_FILE
from stoical.saving import UNFINISHED, last_checkpoint, prune, publish
from stoical.step_checks import MovementCheck
from stoical.throughput import Throughput

logger = logging.getLogger(__name__)

OBJECTIVES_FILE = "objectives.pt"  # in a checkpoint, where an objective keeps something
SELF_CHECK_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}  # nats, by the logits' precision


class StoicalTrainer(Trainer):
    """Trains on `PackedBatch`es. The loss is sum(objectives) / normalizer, both over the global batch.

    The global batch is all processes and all accumulation steps; DDP, FSDP and DeepSpeed average gradients over
    processes, so the loss is multiplied by their number. Every other argument is `transformers.Trainer`'s.
    """

    control: TrainerControl
    loss_is_scaled_for_ga = True  # `_get_num_items_in_batch` counts the whole accumulation window

    def __init__(
        self,
        *,
        objectives: list[Objective],
        loss_normalizer: Normalizer,
        evaluator: Evaluator,
        layout: Layout,
        recipe_yaml: str,
        card: CardSource,
        fingerprint: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_dataset=evaluator.dataset, **kwargs)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.throughput, self.losses = Throughput(), LossWatch()
        bar = [] if self.args.disable_tqdm else [ProgressBar]
        for callback in (self.throughput, *bar, LogLines, MetricsFile, EpochAndCadence, MovementCheck):
            self.add_callback(callback)
        self.add_callback(AfterStep(objectives))
        self.objectives, self.loss_normalizer = objectives, loss_normalizer
        self.evaluator, self.layout, self.card = evaluator, layout, card
        self.recipe_yaml, self.fingerprint = recipe_yaml, fingerprint
        self._checked = layout == "pointwise"
        self._pending: dict[str, list[float]] = defaultdict(list)
        self._dropped_docs = 0

    def create_accelerator_and_postprocess(self) -> None:
        """As transformers does; FSDP2 then adds up gradients in float32 under bf16 too, as DDP with autocast does."""
        super().create_accelerator_and_postprocess()
        if self.accelerator.is_fsdp2 and self.accelerator.mixed_precision != "no":
            plugin = self.accelerator.state.fsdp_plugin
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, PackedBatch],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This micro-batch's share of the global loss, in nats per unit of the normalizer."""
        assert not return_outputs and num_items_in_batch is not None
        batch = inputs["batch"]
        if not self._checked:
            self._self_check(model, batch)
        output = node_logprobs(model, batch, self.layout, hidden=any(o.needs_hidden for o in self.objectives))
        context = StepContext(
            batch=batch,
            output=output,
            step=self.state.global_step,
            forward=lambda other, mixture=None: node_logprobs(model, other, self.layout, mixture=mixture),
            predict=lambda other: self._predict(model, other),
        )
        loss_sum = torch.zeros((), device=output.logprobs.device)
        for objective in self.objectives:
            term = objective(context)
            loss_sum = loss_sum + term.loss_sum
            for name, value in term.logs.items():
                self._pending[name].append(value)
        self._dropped_docs += batch.num_dropped
        self.losses.add(loss_sum, self.state.global_step + 1, batch.query_ids)
        self.throughput.count(batch)
        return loss_sum * self.accelerator.num_processes / num_items_in_batch

    def _predict(self, model: nn.Module, batch: PackedBatch) -> NodeOutput:
        """A pass that samples are drawn from: no dropout, no embedding noise, no graph."""
        training = model.training
        model.eval()
        with torch.no_grad():
            output = node_logprobs(model, batch, self.layout)
        model.train(training)
        return output

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, PackedBatch]], device: torch.device) -> Tensor:
        """The normalizer summed over the accumulation window and all processes."""
        counts = [normalizer(sample["batch"], self.loss_normalizer).to(device) for sample in batch_samples]
        total = torch.stack(counts).sum() if counts else torch.zeros((), device=device)
        summed: Tensor = self.accelerator.reduce(total, reduction="sum")
        return summed

    def _refuse_nan(self) -> None:
        """Raise `ValueError`, on every process, where a loss since the last look was not finite."""
        broken = self.losses.first_broken(self.accelerator)
        if broken is None:
            return
        saved = last_checkpoint(str(self.args.output_dir))
        raise ValueError(
            f"the loss is {broken.value} at step {broken.step}, queries {', '.join(broken.query_ids)}; "
            f"the last checkpoint is {saved or 'none yet'}. "
            "Lower training.learning_rate, or look at these queries with dry_run=true"
        )

    def _self_check(self, model: nn.Module, batch: PackedBatch) -> None:
        """Compare the packed layout with the pointwise one on the first batch, once, and say the difference."""
        self._checked = True
        training = model.training
        model.eval()
        difference = packed_difference(model, batch, self.layout)
        model.train(training)
        precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        limit = max(SELF_CHECK_LIMIT[precision], SELF_CHECK_LIMIT.get(next(model.parameters()).dtype, 0.0))
        said = f"self-check: {self.layout} and pointwise log-probabilities differ by at most {difference:.1e} nats"
        if not difference < limit:
            raise ValueError(f"{said}, over the {limit:g} that {precision} allows: this model cannot branch")
        if self.is_world_process_zero():
            logger.warning(said)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Ranking metrics of the test split's sample (`eval.num_queries`)."""
        self._refuse_nan()
        result = self.evaluator(self.model_wrapped)
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in result.metrics.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

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
        """With them, what the objectives keep."""
        super()._save_optimizer_and_scheduler(output_dir)
        state = {name: kept for name, kept in self._objectives_state().items() if kept}
        if state and self.args.should_save:
            torch.save(state, Path(output_dir) / OBJECTIVES_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = Path(checkpoint or "") / OBJECTIVES_FILE
        if checkpoint is None or not path.is_file():
            return
        state = torch.load(path, map_location=self.args.device)
        for objective in self.objectives:
            if kept := state.get(type(objective).__name__):
                objective.load_state_dict(kept)

    def _objectives_state(self) -> dict[str, dict[str, Any]]:
        return {type(objective).__name__: objective.state_dict() for objective in self.objectives}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Keep recipe, prompt template and a model card beside the weights: what it takes to use them elsewhere."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # every process comes here; one of them writes
            directory = Path(output_dir or str(self.args.output_dir))
            (directory / "recipe.yaml").write_text(self.recipe_yaml)
            (directory / TEMPLATE_FILE).write_text(OmegaConf.to_yaml(self.evaluator.dataset.encoder.template))
            self._write_card(directory)

    def _write_card(self, directory: Path) -> None:
        (directory / "README.md").write_text(self.card.render(self.state.global_step, self.state.log_history))

    def create_model_card(self, *arguments: Any, **kwargs: Any) -> None:
        """Write the card of the run directory; transformers calls this before a push, and its own would replace it."""
        if self.is_world_process_zero():
            self._write_card(Path(str(self.args.output_dir)))

    def init_hf_repo(self, *arguments: Any, **kwargs: Any) -> None:
        """Make the repository on the hub, before the first step. Raises `ValueError` where that is not possible."""
        try:
            super().init_hf_repo(*arguments, **kwargs)
        except Exception as error:
            raise ValueError(
                f"training.push_to_hub=true: {error}; log in with `hf auth login`, or leave it out and push afterwards "
                f"with: hf upload NAME {self.args.output_dir}/checkpoint-N"
            ) from error

    def share(self) -> None:
        """Push weights, recipe and card to the hub after training. A failure is a warning: nothing is lost by it."""
        self._try_push(self.push_to_hub)

    def _try_push(self, push: Callable[[], Any]) -> None:
        try:
            push()
        except Exception as error:
            logger.warning(
                f"pushing to the hub failed ({type(error).__name__}: {error}); nothing is lost here, and after the run "
                f"you can push it with: hf upload {self.hub_model_id} {self.args.output_dir} --exclude 'checkpoint-*'"
            )

    def _get_output_dir(self, trial: Any) -> str:
        """Where transformers writes checkpoints, and may delete them: apart from those that are whole."""
        return str(Path(str(self.args.output_dir)) / UNFINISHED)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, and move it to its place when all processes have; not where weights are broken."""
        self._refuse_nan()
        super()._save_checkpoint(model, trial)
        output, name = Path(str(self.args.output_dir)), f"checkpoint-{self.state.global_step}"
        staged, final = output / UNFINISHED / name, output / name
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
            publish(staged, final, self.fingerprint)
            prune(output, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._try_push(partial(super()._push_from_checkpoint, str(final)))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: transformers would push before the checkpoint is in its place, and `_save_checkpoint` does after."""
