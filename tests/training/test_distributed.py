"""Two gloo processes stand for two GPUs: the same gradient, loss and metrics as one process."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support import forked
from tests.support.launching import TWO_PROCESSES, launch
from tests.support.small_data import TINY, write_dataset
from tests.support.two_processes import train_a_step, train_and_evaluate

ONE_STEP = {
    "training.max_steps": "1",
    "training.max_grad_norm": "0",
    "training.logging_steps": "1",
    "training.eval_strategy": "no",
    "training.save_strategy": "no",
}


def run(tmp_path, world, **settings):
    output = tmp_path / settings["output"]
    output.mkdir()
    values = dict(word.split("=", 1) for word in TINY) | ONE_STEP | settings
    values |= {"recipe": "wordnet_alpha2_beta2,small,professor_forcing,unlikelihood,margin"}
    values |= {"loss.ranking": "list_dpo", "loss.ranking_weight": "0.5"}  # with a reference model
    values |= {"data.path": tmp_path / "data", "output": output / "run"}
    words = [f"{key}={value}" for key, value in values.items()]
    forked.run(train_and_evaluate, output, words, log=output / "log", world=world, config=TWO_PROCESSES)
    return torch.load(output / "gradient.pt"), json.loads((output / "facts.json").read_text())


@pytest.mark.parametrize("normalizer", ["points"])
def test_two_processes_equal_one(tmp_path, normalizer):
    """1 x 8 = 2 processes x 2 accumulated x 2; of 7 test queries, none is counted twice and none lost.

    Every query has the same negatives to compare with. Professor forcing's gate is closed at the first step, so it
    leaves the gradient alone; its discriminator, which each process shows other walks, stays the same on both.
    """
    write_dataset(tmp_path / "data", train=24, test=7)
    settings = {"loss.normalizer": normalizer}
    gradient, facts = run(tmp_path, 1, output="one", **settings)
    micro = {"training.per_device_train_batch_size": "2"}
    shared, shared_facts = run(tmp_path, 2, output="two", **settings, **micro)
    assert (facts["processes"], shared_facts["processes"]) == (1, 2)
    assert gradient.norm() > 1e-3
    assert (shared - gradient).norm() < 1e-6 * max(1, gradient.norm())
    assert shared_facts["loss"] == pytest.approx(facts["loss"], rel=1e-6)
    for mode in ("exact", "free_greedy_path"):
        one, two = facts[mode], shared_facts[mode]
        assert [row["query_id"] for row in two["rows"]] == [f"q{i}" for i in range(24, 31)]
        assert [row["query_id"] for row in one["rows"]] == [f"q{i}" for i in range(24, 31)]
        assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
        for row, other in zip(one["rows"], two["rows"], strict=True):
            assert row["mode"] == mode
            assert other["scores"] == pytest.approx(row["scores"], abs=1e-5)
    runs = [[row["generation"] for row in each["generation"]["rows"]] for each in (facts, shared_facts)]
    assert len(runs[0]) == len(runs[1]) == 7
    for one, two in zip(*runs, strict=True):
        assert one | {"nll": 0} == two | {"nll": 0}
        assert one["nll"] == pytest.approx(two["nll"], rel=1e-5)
    assert len({len(each["forced_hits"]) for each in runs[0]}) > 1
    exact, free = (facts[mode]["rows"][0]["scores"] for mode in ("exact", "free_greedy_path"))
    assert exact != pytest.approx(free, abs=1e-3)
    kept = [torch.load(tmp_path / "two" / f"objectives{process}.pt") for process in (0, 1)]
    first, second = (state["professor_forcing"] for state in kept)
    assert first["accuracy"] == second["accuracy"]
    for name, weight in first["module"].items():
        assert torch.equal(weight, second["module"][name]), name
    for place, moments in first["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg"], second["optimizer"]["state"][place]["exp_avg"])
    assert first["optimizer"]["state"][0]["exp_avg"].norm() > 0
    assert shared_facts["broken"] == ["step 3 of process 1"]
    assert (facts["tokens_a_query"], shared_facts["tokens_a_query"]) == pytest.approx((10, 15))
    assert (facts["real_tokens"], shared_facts["real_tokens"]) == pytest.approx((10 / 20, 30 / 40))


def test_a_token_budget_cuts_processes_shares_unlike_and_changes_nothing(tmp_path):
    """Two micro-batches on one process and three on the other, which go in step: the gradient is one process's."""
    write_dataset(tmp_path / "data", train=24, test=7)
    settings = dict(word.split("=", 1) for word in TINY) | ONE_STEP | {"recipe": "wordnet_alpha2_beta2,small"}
    settings |= {"data.path": tmp_path / "data"}
    for world, more in ((1, {}), (2, {"max_tokens_per_micro_batch": "45"})):
        output = tmp_path / str(world)
        output.mkdir()
        words = [f"{key}={value}" for key, value in (settings | more | {"output": output / "run"}).items()]
        forked.run(train_a_step, output, words, log=output / "log", world=world, config=TWO_PROCESSES)
    one, *two = (torch.load(tmp_path / name) for name in ("1/gradient0.pt", "2/gradient0.pt", "2/gradient1.pt"))
    assert one.norm() > 1e-3
    for gradient in two:
        assert (gradient - one).norm() < 1e-6 * max(1, one.norm())
    assert sorted((tmp_path / "2" / f"parts{rank}").read_text() for rank in (0, 1)) == ["2", "3"]


def test_the_command_trains_saves_resumes_and_evaluates_on_two_processes(tmp_path):
    """The README's commands as they stand, with no word about the CPU: one run, not two beside each other.

    The first by accelerate's launcher itself, the others with its environment.
    """
    write_dataset(tmp_path / "data", train=24, test=7)
    words = [word for word in TINY if "use_cpu" not in word and "max_steps" not in word and "save_steps" not in word]
    words += ["recipe=wordnet_alpha2,small", f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'run'}"]

    launch("train.py", *words, "training.max_steps=2", "training.save_steps=2")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["num_processes"] == len(manifest["devices"]) == 2
    longer = ["train", *words, "training.max_steps=4", "training.save_steps=2", "resume=auto"]
    said = [
        forked.run(forked.command, *command, log=tmp_path / f"log{place}", world=2, config=TWO_PROCESSES)
        for place, command in enumerate(
            ([*longer, "resume_force=true"], longer, ["evaluate", f"checkpoint={tmp_path / 'run'}"])
        )
    ]
    assert said[0].count("trained 4 steps") == 1
    assert "has done all 4 steps" in said[1]
    assert said[2].count("written to") == 1
    assert json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())["num_queries"] == 7
