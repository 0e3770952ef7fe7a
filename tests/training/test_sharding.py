"""Two gloo processes stand for two GPUs: DDP, FSDP2 and one process train alike, and FSDP2's checkpoints serve."""

from __future__ import annotations

import json

import pytest
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from stoical.commands import evaluate
from tests.support import forked
from tests.support.launched_runs import OPTIMIZERS, STEPS, UNTIED, pretrained, train_all, train_run
from tests.support.launching import TWO_PROCESSES, fsdp2_on_cpus
from tests.support.small_data import write_dataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with the runs of one process, of DDP and of FSDP2, each with both optimizers."""
    directory = tmp_path_factory.mktemp("runs")
    write_dataset(directory / "data", train=24, test=7)
    configs = {"ddp": TWO_PROCESSES, "fsdp2": fsdp2_on_cpus(directory / "fsdp2.yaml")}
    for name, config in configs.items():
        forked.run(train_all, directory / name, log=directory / f"{name}.log", world=2, config=config)
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have left its process's state
    GradientState._reset_state()
    for name in OPTIMIZERS:
        train_run(directory / "one", name)
    train_run(directory / "one", "adamw_untied", *UNTIED)
    return directory


def logged(run, name):
    logs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [log[name] for log in logs if name in log]


def weights(run, step=STEPS):
    return load_file(run / f"checkpoint-{step}" / "model.safetensors")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("launched", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(runs, launched, optimizer):
    """20 losses within 1e-5 in float32, over seven epochs, with weights that move and gradients that are clipped."""
    one, two = runs / "one" / optimizer, runs / launched / optimizer
    assert len(logged(one, "loss")) == STEPS
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), abs=1e-5)
    assert sum(norm > 1.2 for norm in logged(one, "grad_norm")) > STEPS / 2
    before, after = weights(two, STEPS // 2), weights(two)
    assert max((after[name] - before[name]).abs().max() for name in after) > 0.01


@pytest.mark.parametrize("launched", ["ddp", "fsdp2"])
def test_logits_in_chunks_train_as_whole_ones_of_one_process(runs, launched):
    """The head gives log-probabilities inside the wrapped model's forward: weights are whole then, gradients shared."""
    one, two = (logged(runs / name, "loss") for name in ("one/adamw", f"{launched}/adamw_chunked"))
    assert two == pytest.approx(one[:5], abs=1e-5)


def test_so_does_a_head_of_its_own_and_bfloat16_keeps_log_probabilities_float32(runs):
    """Tied weights above, a weight of the head's own here; FSDP2 would round what modules give to bfloat16."""
    one, two, tied = (logged(runs / name, "loss") for name in ("one/adamw_untied", "fsdp2/adamw_untied", "one/adamw"))
    assert two == pytest.approx(one, abs=1e-5)
    assert one != pytest.approx(tied[:5], abs=1e-2)
    low, chunked = (logged(runs / "fsdp2" / f"adafactor_bf16{ending}", "loss") for ending in ("", "_chunked"))
    assert chunked == pytest.approx(low, abs=1e-3)


def test_a_token_budget_that_cuts_shares_unlike_trains_as_one_process(runs):
    """Every pass gathers weights: processes that made more passes than others would wait for them for ever."""
    assert logged(runs / "fsdp2" / "adamw_budget", "loss") == pytest.approx(
        logged(runs / "one" / "adamw", "loss"), abs=1e-5
    )


def test_shards_were_trained(runs):
    """Else the test above would compare DDP with DDP: only FSDP2 leaves its own file beside model.safetensors."""
    assert (runs / "fsdp2" / "adafactor" / "checkpoint-20" / "pytorch_model_fsdp.bin").is_file()
    assert not (runs / "ddp" / "adafactor" / "checkpoint-20" / "pytorch_model_fsdp.bin").exists()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_on_shards_equals_going_through(runs, optimizer):
    """Weights bit for bit: moments, schedule and data order came back."""
    through, resumed = (weights(runs / "fsdp2" / name) for name in (optimizer, f"{optimizer}_resumed"))
    assert through.keys() == resumed.keys()
    for name, weight in through.items():
        assert weight.equal(resumed[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sharded_checkpoint_is_evaluated_with_no_other_flag(runs, optimizer):
    run = runs / "fsdp2" / optimizer
    evaluate.main([f"checkpoint={run}"])
    found = json.loads((run / "eval" / "metrics.json").read_text())
    assert found["num_queries"] == 7
    for name in ("cvr", "ndcg", "recall@1", "valid_mass"):
        assert found[name] == pytest.approx(logged(run, f"eval_{name}")[-1], abs=1e-5), name


def test_every_process_evaluates_with_all_weights(runs):
    """accelerate's FSDP settings let one process read the weights for all, which no evaluation hands on."""
    by_two = json.loads((runs / "fsdp2" / "eval_by_two" / "metrics.json").read_text())
    assert by_two["num_queries"] == 7
    for name in ("cvr", "ndcg", "recall@1", "valid_mass"):
        assert by_two[name] == pytest.approx(logged(runs / "fsdp2" / "adafactor", f"eval_{name}")[-1], abs=1e-5), name


def test_weights_that_one_process_reads_reach_the_others(runs):
    train_run(runs / "one", "adafactor_pretrained", *pretrained(runs / "fsdp2" / "adafactor"))
    one, two = runs / "one" / "adafactor_pretrained", runs / "fsdp2" / "adafactor_pretrained"
    assert logged(two, "loss") == pytest.approx(logged(one, "loss"), abs=1e-5)


def test_bfloat16_computes_low_and_keeps_gradients_and_weights_high(runs):
    facts = json.loads((runs / "fsdp2" / "facts.json").read_text())
    assert (facts["computes_in"], facts["adds_up_in"]) == ("torch.bfloat16", "torch.float32")
    low, high = (logged(runs / "fsdp2" / name, "loss")[:5] for name in ("adafactor_bf16", "adafactor"))
    assert low == pytest.approx(high, abs=0.05)
    assert low != pytest.approx(high, abs=1e-5)
    assert {str(weight.dtype) for weight in weights(runs / "fsdp2" / "adafactor_bf16", 5).values()} == {"torch.float32"}


def test_gradients_that_accumulate_stay_sharded(runs):
    assert json.loads((runs / "fsdp2" / "facts.json").read_text())["gradients_stay_sharded"]


@pytest.mark.parametrize("split", ["rows", "columns"])
def test_adafactor_on_shards_is_adafactor_on_whole_weights(runs, split):
    """Uneven shards, empty ones, vectors, batches of matrices; a full state dict loads back into the same shards."""
    facts = json.loads((runs / "fsdp2" / "facts.json").read_text())[split]
    assert facts["moved"] > 0.01
    assert facts["difference"] < 1e-6
    assert facts["lost"] == 0
    assert facts["sharded_differently"] == 0
