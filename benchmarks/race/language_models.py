"""Entrants that are language models: stoical, TRL's SFTTrainer, and a plain transformers.Trainer."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from benchmarks.race.clock import Marks, falling
from benchmarks.race.course import Start
from benchmarks.race.rows import Row, all_rows, drawn_rows, top_rows
from stoical.training.build import build_trainer

FAR = 10**6  # more steps than any budget has


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was tuned for an entrant on a course, with a few short runs: rows (or lists) a step, the learning rate.

    grouped: batches of rows of like length, against padding.
    """

    batch: int
    learning_rate: float
    grouped: bool = False


def run_stoical(start: Start, marks: Marks, recipe: tuple[str, ...]) -> None:
    """As `stoical.train` runs the recipe, without its evaluations and checkpoints."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = build_trainer(start.with_output(recipe, directory))
        marks.evaluate = lambda: start.measure(trainer.model)
        marks.count_tokens(trainer.model)
        trainer.add_callback(marks)
        trainer.train()


def arguments(start: Start, tuned: Tuned, directory: str) -> dict[str, Any]:
    """`TrainingArguments` that the rivals share: the recipe's, without anything that would take time on the side."""
    return {
        "output_dir": directory,
        "seed": start.recipe.seed,
        "max_steps": FAR,
        "per_device_train_batch_size": tuned.batch,
        "max_grad_norm": start.recipe.training["max_grad_norm"],
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }


def grouped(tuned: Tuned) -> dict[str, str]:
    """How rows come into batches."""
    return {"train_sampling_strategy": "group_by_length" if tuned.grouped else "random"}


def adamw(model: nn.Module, start: Start, tuned: Tuned, marks: Marks) -> tuple[Any, Any]:
    """The recipe's optimizer, as transformers makes it, with a learning rate that follows the clock."""
    decay = start.recipe.training["weight_decay"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=tuned.learning_rate, weight_decay=decay)
    return optimizer, falling(optimizer, marks, start.warmup)


def run_sft(start: Start, marks: Marks, tuned: Tuned, drawn: bool) -> None:
    """TRL's SFTTrainer on prompt + docID, the loss on the docID's tokens: top docIDs, or rows drawn by lambda(r)."""
    from trl import SFTConfig, SFTTrainer

    rows = (drawn_rows if drawn else top_rows)(start)
    columns = {
        "input_ids": [row.input_ids for row in rows],
        "labels": [row.labels for row in rows],
        "length": [len(row.input_ids) for row in rows],
    }
    model = start.model()
    model.set_attn_implementation("sdpa")
    with tempfile.TemporaryDirectory() as directory:
        own = {"bf16": False, "gradient_checkpointing": False, "max_length": None}
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(start, tuned, directory), **grouped(tuned), **own),
            train_dataset=Dataset.from_dict(columns),
            processing_class=start.tokenizer,
            callbacks=[marks],
            optimizers=adamw(model, start, tuned, marks),
        )
        trainer.remove_callback(PrinterCallback)
        marks.evaluate = lambda: start.measure(model)
        marks.count_tokens(model)
        trainer.train()


class WeightedTrainer(Trainer):
    """A plain Trainer whose loss is `weighted_loss`."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """As `weighted_loss`."""
        return weighted_loss(model, inputs)


def weighted_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The mean over rows of lambda(r) times the docID's negative log-likelihood, a scalar in nats.

    Eq. 11 with one-hot targets, by its points; logits are made from the first column that a docID begins at.
    """
    labels = inputs["labels"]
    first = int((labels != -100).any(dim=0).nonzero()[0, 0])
    keep = labels.shape[1] - first + 1
    logits = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], logits_to_keep=keep, use_cache=False
    ).logits[:, :-1]
    nll = cross_entropy(logits.transpose(1, 2), labels[:, first:], reduction="none").sum(dim=1)
    return (inputs["weight"].to(nll.dtype) * nll).mean()


def collate(rows: list[Row], pad: int) -> dict[str, Tensor]:
    """Rows as tensors [R, T], right-padded, and their weights [R]."""
    width = max(len(row.input_ids) for row in rows)

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([[*ids, *[value] * (width - len(ids))] for ids in lists])

    return {
        "input_ids": padded([row.input_ids for row in rows], pad),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
        "labels": padded([row.labels for row in rows], -100),
        "weight": torch.tensor([row.weight for row in rows], dtype=torch.float64),
    }


def run_trainer(start: Start, marks: Marks, tuned: Tuned) -> None:
    """Transformers' Trainer on all docIDs, a row each, weighted by lambda(r)."""
    from stoical.encoding.tokenization import pad_id

    model, pad = start.model(), pad_id(start.tokenizer)
    model.set_attn_implementation("sdpa")
    with tempfile.TemporaryDirectory() as directory:
        trainer = WeightedTrainer(
            model=model,
            args=TrainingArguments(**arguments(start, tuned, directory), remove_unused_columns=False),
            train_dataset=all_rows(start),  # type: ignore[arg-type]  # a list is a map-style dataset
            data_collator=lambda rows: collate(rows, pad),
            callbacks=[marks],
            optimizers=adamw(model, start, tuned, marks),
        )
        trainer.remove_callback(PrinterCallback)
        marks.evaluate = lambda: start.measure(model)
        marks.count_tokens(model)
        trainer.train()
