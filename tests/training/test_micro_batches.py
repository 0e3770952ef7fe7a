"""training/micro_batches.py: cuts within the budget, and the same training whatever the cut, resumed runs too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.config.recipe import Recipe
from stoical.encoding.packing import TrieTargetCollator
from stoical.training.build import build_trainer
from stoical.training.micro_batches import MicroBatches, TokenBudget, parts_of
from stoical.training.trainer import StoicalTrainer
from stoical.trie.node_weights import TargetSettings
from tests.support.gradients import first_gradient
from tests.support.random_queries import random_query
from tests.support.same_batch import assert_same_batch
from tests.support.tiny_recipe import tiny_recipe
from tests.support.training import trained_run

BUDGET = "max_tokens_per_micro_batch=60"
COLLATOR = TrieTargetCollator(TargetSettings(item="fractional", alpha=2.0))


def weights(trainer: StoicalTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(2, 30)), min_size=1, max_size=12),
    st.integers(1, 300),
    st.integers(1, 13),
)
def test_every_query_is_in_one_part_and_every_part_within_its_limits(
    sizes: list[tuple[int, int]], most_tokens: int, most_queries: int
) -> None:
    """And a part ends only where the next query would not have fit."""
    queries = [random_query(place, docs=docs, prompt=prompt) for place, (docs, prompt) in enumerate(sizes)]
    parts = TokenBudget(COLLATOR, most_tokens, most_queries)(queries)["batch"].parts
    names = [name for part in parts for name in part.query_ids]
    assert sorted(names) == sorted(query.query_id for query in queries)
    by_name = {query.query_id: query for query in queries}
    lengths = [COLLATOR([by_name[name]])["batch"].num_tokens for name in names]
    assert lengths == sorted(lengths, reverse=True)
    for place, part in enumerate(parts):
        own = [by_name[name] for name in part.query_ids]
        assert_same_batch(part, COLLATOR(own)["batch"])
        assert len(own) <= most_queries
        assert len(own) == 1 or part.input_ids.numel() <= most_tokens
        if place + 1 < len(parts) and len(own) < most_queries:
            following = by_name[parts[place + 1].query_ids[0]]
            assert COLLATOR([*own, following])["batch"].input_ids.numel() > most_tokens


def first_parts(recipe: Recipe) -> int:
    """How many micro-batches the first step has."""
    (first, *_) = build_trainer(recipe).get_train_dataloader()
    assert isinstance(first["batch"], MicroBatches)
    return len(parts_of(first["batch"]))


@pytest.mark.parametrize("normalizer", ["queries", "points", "weights"])
def test_the_gradient_is_that_of_the_plain_split(tmp_path: Path, normalizer: str) -> None:
    own = ("training.max_grad_norm=0", f"loss.normalizer={normalizer}", "training.max_steps=1")
    assert first_parts(tiny_recipe(tmp_path, *own, BUDGET)) > 2
    whole, halved, cut = (
        first_gradient(tiny_recipe(tmp_path, *own, more))
        for more in ("seed=0", "training.per_device_train_batch_size=4", BUDGET)
    )
    assert whole.norm() > 1e-3
    for other in (halved, cut):
        assert (other - whole).norm() < 1e-6 * max(1.0, float(whole.norm()))


def test_losses_weights_and_steps_are_those_of_the_plain_split(tmp_path: Path) -> None:
    """Over three epochs of 24 queries whose last batch is not full, at a rate that moves the weights."""
    own = ("global_batch_size=7", "training.max_steps=12", "training.logging_steps=1", "training.eval_strategy=no")
    runs = {}
    for name, more in (("plain", "training.per_device_train_batch_size=7"), ("cut", BUDGET)):
        runs[name] = trained_run(tiny_recipe(tmp_path, *own, more, output=name))
    logs = {name: [row for row in run.state.log_history if "loss" in row] for name, run in runs.items()}
    assert len(logs["cut"]) == len(logs["plain"]) == 12
    for one, other in zip(*logs.values(), strict=True):
        assert one["epoch"] == other["epoch"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert logs["cut"][0]["real_tokens"] > logs["plain"][0]["real_tokens"], "queries of like length are together"
    moved = (weights(runs["plain"]) - weights(build_trainer(tiny_recipe(tmp_path, *own, output="new")))).norm()
    assert (weights(runs["cut"]) - weights(runs["plain"])).norm() < 1e-3 * moved


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    own = ("training.eval_strategy=no", "training.save_steps=2", "training.lr_scheduler_type=constant", BUDGET)
    whole = trained_run(tiny_recipe(tmp_path, *own, "training.max_steps=5", output="whole"))
    trained_run(tiny_recipe(tmp_path, *own, "training.max_steps=2"))
    resumed = trained_run(tiny_recipe(tmp_path, *own, "training.max_steps=5", "resume=auto"))
    assert torch.equal(weights(resumed), weights(whole))


def test_fillers_count_nothing_and_stand_at_the_end() -> None:
    batch = TokenBudget(COLLATOR, 1, 8)([random_query(place, docs=3) for place in range(2)])["batch"]
    filled = batch.filled_up(4)
    assert [part.filler for part in filled] == [False, False, True, True]
    assert batch.filled_up(2) == batch.parts


def test_settings_that_conflict_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layout=pointwise conflicts with max_tokens_per_micro_batch"):
        tiny_recipe(tmp_path, BUDGET, "layout=pointwise")
    with pytest.raises(ValueError, match=r"max_tokens_per_micro_batch=0 must be at least 1"):
        tiny_recipe(tmp_path, "max_tokens_per_micro_batch=0")
