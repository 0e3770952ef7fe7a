"""TRL's `DPOTrainer` on our token ids, in our run directories, and without its telemetry."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import use_adapter

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.model import load_model
from stoical.config.recipe import Recipe
from stoical.config.values import recipe_yaml
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.encoding.tokenization import pad_id
from stoical.models.modes import eval_mode
from stoical.models.self_check import LIMIT
from stoical.preferences.start import Start
from stoical.runs.model_card import CardMethod, CardSource
from stoical.runs.resume import fingerprint
from stoical.training.arguments import training_arguments
from stoical.training.build import training_evaluator
from stoical.training.run_trainer import RunTrainer
from stoical.training.tracking import build_trackers

MERGE = "merge adapters first, with stoical export, and start from the result"
REFERENCE = "ref"  # the name that TRL gives the frozen copy of an adapter


class PreferenceTrainer(RunTrainer, DPOTrainer):
    """DPO (Rafailov et al. 2023) by TRL 1.16, whose log-probabilities are of the rows' ids as they stand.

    Rows have `prompt_ids`, `chosen_ids` and `rejected_ids`. TRL would tokenize text, add EOS and cut at max_length, and
    report every run to its makers. The reference of an adapter is a copy of that adapter, which checkpoints leave out.
    """

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        """Nothing: rows are token ids already."""
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **kwargs: Any) -> Tensor:
        """The mean of -log sigmoid(beta (log-ratio of chosen - log-ratio of rejected)) over a micro-batch, in nats."""
        loss: Tensor = super().compute_loss(model, inputs, *arguments, **kwargs)
        self.losses.add(loss, self.state.global_step + 1, ("of its preference pairs",))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's metrics with the loss; evaluations as they are, for TRL would put them there as well."""
        self._refuse_nan()
        if "loss" in logs:
            super().log(logs, start_time)
        else:
            Trainer.log(self, logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            shutil.rmtree(Path(output_dir or str(self.args.output_dir)) / REFERENCE, ignore_errors=True)


def preference_arguments(recipe: Recipe, beta: float) -> DPOConfig:
    """The recipe's training section for TRL; its own defaults are bfloat16, checkpointing and cuts at 1,024 tokens."""
    old = recipe.training.get("gradient_checkpointing", False)
    explicit = {
        "beta": beta,
        "bf16": False,
        "activation_checkpointing": recipe.training.get("activation_checkpointing", old),
        "max_length": None,
        "router_aux_loss_coef": 0.0,  # experts are trained by the loss that is named, as in `stoical train`
    }
    return training_arguments(recipe, DPOConfig, explicit)


def build_preference_trainer(
    recipe: Recipe, start: Start, beta: float, pairs: datasets.Dataset, method: CardMethod, record: Mapping[str, Any]
) -> PreferenceTrainer:
    """Policy and reference, both the start's weights, ready for `.train()`; manifest and checkpoints get `record`.

    The reference of whole weights is a second copy of them. That of an adapter is made by TRL: the adapter once more,
    frozen, over the same model below, never the bare model. Raises `ValueError` where TRL scores the one or the other
    otherwise than the start does.
    """
    arguments = preference_arguments(recipe, beta)
    trackers = build_trackers(recipe, arguments)
    tokenizer = build_tokenizer(recipe)
    encoder = build_encoder(recipe, tokenizer)
    evaluator = training_evaluator(recipe, load_split(recipe.data.path, "test"), encoder)
    model = load_model(recipe, tokenizer, start.checkpoint if start.adapter else None, trainable=True)
    if isinstance(model, PeftModel) and getattr(model.active_peft_config, "bias", "none") != "none":
        raise ValueError(f"{start.checkpoint} trains biases, of which peft holds one set, without a reference; {MERGE}")
    with _as_trl_can(start):
        trainer = PreferenceTrainer(
            model=model,
            ref_model=None if isinstance(model, PeftModel) else copy.deepcopy(model),
            args=arguments,
            train_dataset=pairs,
            data_collator=DataCollatorForPreference(pad_token_id=pad_id(tokenizer)),
            processing_class=tokenizer,
            callbacks=trackers,
            evaluator=evaluator,
            recipe_yaml=recipe_yaml(recipe),
            card=CardSource(recipe, load_manifest(recipe.data.path), start.adapter, method),
            fingerprint=fingerprint(recipe) | {"preferences": record},
        )
        if isinstance(model, PeftModel):
            copy_to_reference(model)
        difference = _difference(model, [*pairs[0]["prompt_ids"], *pairs[0]["chosen_ids"]])
    if not difference < LIMIT[next(model.parameters()).dtype]:
        raise ValueError(
            f"{start.checkpoint}: TRL's log-probabilities differ from the model's by {difference:.1e} nats"
            + f"; {MERGE}" * start.adapter
        )
    return trainer


@contextmanager
def _as_trl_can(start: Start) -> Iterator[None]:
    """Raise `ValueError` where TRL or peft reach for a part that the model of `start` has not."""
    try:
        yield
    except AttributeError as error:
        way = f"; {MERGE}" * start.adapter
        raise ValueError(f"{start.checkpoint} cannot be trained by TRL ({error}){way}") from error


@torch.no_grad()
def _difference(model: Any, ids: list[int]) -> float:
    """The most, in nats, by which TRL's log-probabilities, of policy and adapter's reference, are off plain ones."""
    row = torch.tensor([ids], device=model.device)
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    with eval_mode(model):
        logits = model(**inputs).logits[:, :-1].float()
        plain = logits.log_softmax(-1).gather(-1, row[:, 1:, None])[..., 0]
        found = [model(**inputs, labels=row, fused_lm_head=True).log_probs]
        if isinstance(model, PeftModel):
            with use_adapter(model, REFERENCE):
                found.append(model(**inputs, labels=row, fused_lm_head=True).log_probs)
    return max(float((each - plain).abs().max()) for each in found)


def copy_to_reference(model: PeftModel) -> None:
    """Copy what TRL 1.16 leaves out of an adapter's reference: tensors whose names end with the adapter's.

    Those are the adapters of embeddings and trained tokens; without them the reference begins as another model.
    """
    end = f".{model.active_adapter}"
    for name, tensor in list(model.named_parameters()):
        if name.endswith(end):
            model.get_parameter(f"{name.removesuffix(end)}.{REFERENCE}").data.copy_(tensor.data)
