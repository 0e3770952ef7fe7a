"""Training batches made ahead in a thread: the same ones, in the same order, and errors where they belong."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate import skip_first_batches

from stoical.encoding.packed_batch import PackedBatch
from stoical.training.build import build_trainer
from stoical.training.run_trainer import RunTrainer
from stoical.training.trainer import StoicalTrainer
from tests.support.same_batch import assert_same_batch
from tests.support.tiny_recipe import tiny_recipe

THREE_BATCHES_A_STEP = ("global_batch_size=6", "training.per_device_train_batch_size=2")


def trainer_of(tmp_path: Path, *words: str) -> StoicalTrainer:
    return build_trainer(tiny_recipe(tmp_path, "training.max_steps=4", "training.eval_strategy=no", *words))


def epoch_of(loader: Any, epoch: int) -> list[PackedBatch]:
    loader.set_epoch(epoch)
    return [sample["batch"] for sample in loader]


def check_same(found: Sequence[PackedBatch], expected: Sequence[PackedBatch]) -> None:
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert_same_batch(one, other)


@pytest.mark.parametrize("own", [(), THREE_BATCHES_A_STEP], ids=["a batch a step", "three batches a step"])
def test_epochs_and_their_ends_are_those_of_a_loader_without_a_thread(tmp_path: Path, own: tuple[str, ...]) -> None:
    """Both draw the epochs' shuffles of queries and documents; a resumed run's first epoch begins further on."""
    trainer = trainer_of(tmp_path, *own)
    ahead, plain = trainer.get_train_dataloader(), RunTrainer.get_train_dataloader(trainer)
    orders = []
    for epoch in range(3):
        found = epoch_of(ahead, epoch)
        check_same(found, epoch_of(plain, epoch))
        orders.append([query for batch in found for query in batch.query_ids])
    assert orders[0] != orders[1]
    rest = epoch_of(skip_first_batches(ahead, 1), 1)
    check_same(rest, epoch_of(skip_first_batches(plain, 1), 1))
    assert [query for batch in rest for query in batch.query_ids] == orders[1][-sum(len(b.query_ids) for b in rest) :]


@pytest.mark.parametrize(("own", "ahead"), [((), 2), (THREE_BATCHES_A_STEP, 4)])
def test_the_next_steps_batches_are_made_while_one_is_worked_on(
    tmp_path: Path, own: tuple[str, ...], ahead: int
) -> None:
    trainer = trainer_of(tmp_path, *own)
    collate, made = trainer.data_collator, []

    def noting(queries: Any) -> Any:
        made.append(threading.current_thread().name)
        return collate(queries)

    trainer.data_collator = noting
    batches = iter(trainer.get_train_dataloader())
    next(batches)
    deadline = time.monotonic() + 30
    while len(made) < ahead and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == ahead, "a step's batches, and one that accelerate looks ahead"
    assert all(name.startswith("loader") for name in made)


def test_a_query_that_cannot_be_packed_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    collate, calls = trainer.data_collator, []

    def failing(queries: Any) -> Any:
        calls.append(queries)
        if len(calls) == 3:
            raise ValueError(f"query {queries[0].query_id!r}: cannot be packed")
        return collate(queries)

    trainer.data_collator = failing
    with pytest.raises(ValueError, match=r"query 'q\d+': cannot be packed"):
        trainer.train()
    assert trainer.state.global_step in (1, 2)


def test_workers_of_the_recipes_own_are_left_to_torch(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "training.dataloader_num_workers=1")
    assert trainer.get_train_dataloader().dataset is trainer.train_dataset
