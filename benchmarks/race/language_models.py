"""Entrants that are language models: stoical, TRL's SFTTrainer, and a plain transformers.Trainer."""

from __future__ import annotations

import copy
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
from stoical.encoding.tokenization import pad_id
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
        "train_sampling_strategy": "group_by_length" if tuned.grouped else "random",
        "max_grad_norm": start.recipe.training["max_grad_norm"],
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }


def adamw(model: nn.Module, start: Start, tuned: Tuned, marks: Marks) -> tuple[Any, Any]:
    """The recipe's optimizer, as transformers makes it, with a learning rate that follows the clock."""
    decay = start.recipe.training["weight_decay"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=tuned.learning_rate, weight_decay=decay)
    return optimizer, falling(optimizer, marks, start.warmup)


def dataset(rows: list[Row]) -> Dataset:
    """Rows as trainers take them; `length` is for batches of like length."""
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels for row in rows],
            "weight": [row.weight for row in rows],
            "length": [len(row.prompt) + len(row.docid) for row in rows],
        }
    )


def plain(start: Start) -> Any:
    """The initial model, with the attention that transformers gives it."""
    model = start.model()
    model.set_attn_implementation("sdpa")
    return model


def finish(trainer: Trainer, start: Start, marks: Marks) -> None:
    """Train, with the marks by our evaluator."""
    trainer.remove_callback(PrinterCallback)
    marks.evaluate = lambda: start.measure(trainer.model)
    marks.count_tokens(trainer.model)
    trainer.train()


def run_sft(start: Start, marks: Marks, tuned: Tuned, drawn: bool) -> None:
    """TRL's SFTTrainer on prompt + docID: top docIDs, or rows drawn in proportion to lambda(r)."""
    with tempfile.TemporaryDirectory() as directory:
        rows = (drawn_rows if drawn else top_rows)(start)
        finish(sft_trainer(start, marks, tuned, rows, directory), start, marks)


def sft_trainer(start: Start, marks: Marks, tuned: Tuned, rows: list[Row], directory: str) -> Any:
    """The trainer; its loss is the mean negative log-likelihood of a batch's docID tokens."""
    from trl import SFTConfig, SFTTrainer

    model, own = plain(start), {"bf16": False, "gradient_checkpointing": False, "max_length": None}
    return SFTTrainer(
        model=model,
        args=SFTConfig(**arguments(start, tuned, directory), **own),
        train_dataset=dataset(rows).remove_columns("weight"),
        processing_class=copy.deepcopy(start.tokenizer),  # it is given a padding token
        callbacks=[marks],
        optimizers=adamw(model, start, tuned, marks),
    )


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


def collate(rows: list[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Rows as tensors [R, T], right-padded, and their weights [R]."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([[*ids, *[value] * (width - len(ids))] for ids in lists])

    return {
        "input_ids": padded([row["input_ids"] for row in rows], pad),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], -100),
        "weight": torch.tensor([row["weight"] for row in rows], dtype=torch.float64),
    }


def run_trainer(start: Start, marks: Marks, tuned: Tuned) -> None:
    """Transformers' Trainer on all docIDs, a row each, weighted by lambda(r)."""
    model, pad = plain(start), pad_id(start.tokenizer)
    with tempfile.TemporaryDirectory() as directory:
        trainer = WeightedTrainer(
            model=model,
            args=TrainingArguments(**arguments(start, tuned, directory), remove_unused_columns=False),
            train_dataset=dataset(all_rows(start)),
            data_collator=lambda rows: collate(rows, pad),
            callbacks=[marks],
            optimizers=adamw(model, start, tuned, marks),
        )
        finish(trainer, start, marks)
