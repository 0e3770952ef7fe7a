"""What every trainer here shares: ranking metrics as evaluation, checkpoints that are whole, a run's files, no NaN."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, SchedulerType, Trainer, TrainerControl
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.training_args import OptimizerNames

from stoical.common.files import writing
from stoical.common.time_spent import TimeSpent
from stoical.encoding.prompts import TEMPLATE_FILE, template_yaml
from stoical.encoding.tokenization import keep_probes
from stoical.evaluation.evaluator import Evaluator
from stoical.models.weight_files import quoted
from stoical.runs.checkpoints import UNFINISHED, last_checkpoint, prune, publish
from stoical.runs.model_card import CardSource
from stoical.training.callbacks import Cadence, Stages
from stoical.training.loss_watch import LossWatch, broken_weights
from stoical.training.movement import MovementCheck
from stoical.training.progress import LogLines, MetricsFile, ProgressBar
from stoical.training.termination import SaveOnTermination

logger = logging.getLogger(__name__)


SETUP_ERRORS = (ImportError, ValueError, TypeError, AttributeError, KeyError, AssertionError, RuntimeError)


@contextmanager
def named(setting: str) -> Iterator[None]:
    """Turn whatever a library raises while it sets something up into a `ValueError` that names the setting."""
    try:
        yield
    except SETUP_ERRORS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(f"{setting}: {lines[0]}") from error


class RunTrainer(Trainer):
    """A `transformers.Trainer`, or a subclass beside this one, that keeps a run directory as all commands read it.

    Subclasses add every micro-batch's loss to `losses`. began: when the command did (`time.time`), for the line that
    says at the end what the time was spent on. Every other argument is the next class's.
    """

    control: TrainerControl

    def __init__(
        self,
        *,
        evaluator: Evaluator,
        recipe_yaml: str,
        card: CardSource,
        fingerprint: Mapping[str, Any],
        began: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_dataset=evaluator.dataset, **kwargs)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.losses = LossWatch()
        bar = [] if self.args.disable_tqdm else [ProgressBar]
        for callback in (*bar, LogLines, MetricsFile, Cadence, MovementCheck):
            self.add_callback(callback)
        self.termination, self.spent = SaveOnTermination(), TimeSpent(began)
        self.add_callback(self.termination)
        self.add_callback(Stages(self.spent))
        self.evaluator, self.card = evaluator, card
        self.recipe_yaml, self.fingerprint = recipe_yaml, fingerprint

    def create_accelerator_and_postprocess(self) -> None:
        """As transformers does; under bf16 FSDP2 then adds up gradients in float32, as DDP with autocast does.

        Nor does it round outputs: log-probabilities are float32.
        """
        super().create_accelerator_and_postprocess()
        if self.accelerator.is_fsdp2 and self.accelerator.mixed_precision != "no":
            plugin = self.accelerator.state.fsdp_plugin
            plugin.mixed_precision_policy = replace(
                plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
            )

    def create_optimizer(self, *arguments: Any, **kwargs: Any) -> Any:
        """As transformers does. Raises `ValueError` where the optimizer cannot be made, before the first step."""
        with named(f"training.optim={OptimizerNames(self.args.optim).value}"):
            return super().create_optimizer(*arguments, **kwargs)

    def create_scheduler(self, *arguments: Any, **kwargs: Any) -> Any:
        """As transformers does. Raises `ValueError` where the schedule cannot be made, before the first step."""
        schedule = SchedulerType(self.args.lr_scheduler_type).value
        with named(f"training.lr_scheduler_type={schedule}, with training.lr_scheduler_kwargs"):
            return super().create_scheduler(*arguments, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Put a checkpoint's weights into the model that resumes; adapters and shards as transformers does.

        transformers 5.23 takes the names in the file for those in the model. It saves many mixtures of experts under
        other names, and would leave their experts as they were at the start (huggingface/transformers#48805).
        """
        if model is not None or not isinstance(self.model, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        own = self.model
        saved, loaded = type(own).from_pretrained(
            resume_from_checkpoint, config=own.config, dtype=own.dtype, output_loading_info=True
        )
        if loaded["missing_keys"]:
            raise ValueError(f"{resume_from_checkpoint} lacks {quoted(loaded['missing_keys'])}; it cannot be resumed")
        own.load_state_dict(saved.state_dict())

    def train(self, *arguments: Any, **kwargs: Any) -> Any:
        """As transformers does. Raises `SystemExit` with 143, as shells count SIGTERM, where that has ended it."""
        result = super().train(*arguments, **kwargs)
        if self.termination.stopped:
            if self.is_world_process_zero():
                saved = last_checkpoint(str(self.args.output_dir))
                print(f"terminated: stopped and saved as {saved}; resume=auto continues from there", file=sys.stderr)
            raise SystemExit(143)
        if self.is_world_process_zero():
            print(self.spent)
        return result

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As transformers makes it. Raises `ValueError` where an epoch would have no batch."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        if not len(loader):
            raise ValueError(
                f"the training split's {len(self.train_dataset)} rows do not fill one batch, and "
                "training.dataloader_drop_last=true drops them: there is nothing to train on; lower global_batch_size"
            )
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *arguments: Any, **kwargs: Any) -> Any:
        """As transformers does; the wait for every micro-batch is the loader's."""
        return super().get_batch_samples(self.spent.waiting_for(epoch_iterator, "loader"), *arguments, **kwargs)

    def training_step(self, *arguments: Any, **kwargs: Any) -> Any:
        """As transformers does, timed."""
        with self.spent.on("forward and backward"):
            return super().training_step(*arguments, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As transformers does; the norm is kept, to be looked at before the next log, evaluation or save."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16:  # a loss scaler skips steps that overflow, which are no error
            self.losses.add_norm(norm, self.state.global_step + 1)
        return norm

    def _refuse_nan(self) -> None:
        """Raise `ValueError`, on every process, where a loss or gradient since the last look was not finite."""
        broken = self.losses.first_broken(self.accelerator)
        if broken is not None:
            self._refuse(
                f"{broken.what} at step {broken.step}, queries {', '.join(broken.query_ids)}",
                ", or look at one of these queries: stoical draw-trie query=ID and the recipe's own words",
            )

    def _refuse_broken_weights(self, model: nn.Module) -> None:
        """Raise `ValueError`, on every process, where the weights that are to be saved are not finite."""
        names = broken_weights(model, self.accelerator)
        if names:
            self._refuse(f"weights are not finite after step {self.state.global_step}: {', '.join(names[:5])}")

    def _refuse(self, what: str, way: str = "") -> None:
        saved = last_checkpoint(str(self.args.output_dir))
        raise ValueError(f"{what}; the last checkpoint is {saved or 'none yet'}. Lower training.learning_rate{way}")

    def _take_averages(self) -> None:
        """Put the weights in place that are to be used, where an optimizer trains others: schedule-free ones do.

        transformers' `training_step` has it take back its own.
        """
        if callable(getattr(self.optimizer, "eval", None)):
            self.optimizer.eval()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Ranking metrics of the test split's sample (`eval.num_queries`)."""
        self._refuse_nan()
        self._take_averages()
        with self.spent.on("evaluation"):
            result = self.evaluator(self.model_wrapped)
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in result.metrics.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Keep recipe, prompt template and a model card beside the weights: what it takes to use them elsewhere."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # every process comes here; one of them writes
            directory = Path(output_dir or str(self.args.output_dir))
            (directory / "recipe.yaml").write_text(self.recipe_yaml, encoding="utf-8")
            keep_probes(self.evaluator.dataset.encoder.tokenizer, directory)
            template = template_yaml(self.evaluator.dataset.encoder.template)
            (directory / TEMPLATE_FILE).write_text(template, encoding="utf-8")
            self._write_card(directory)

    def _write_card(self, directory: Path) -> None:
        card = self.card.render(self.state.global_step, self.state.log_history)
        (directory / "README.md").write_text(card, encoding="utf-8")

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
        self._take_averages()
        self._refuse_broken_weights(model)
        output, name = Path(str(self.args.output_dir)), f"checkpoint-{self.state.global_step}"
        staged, final = output / UNFINISHED / name, output / name
        with self.spent.on("saving"):
            with writing(staged):
                super()._save_checkpoint(model, trial)
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
