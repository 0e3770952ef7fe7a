"""What the launcher set up: refusals by name, GPUs that stay unused, and the configs that are shipped."""

from __future__ import annotations

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from stoical.runs.processes import sharding
from stoical.training.arguments import training_arguments
from stoical.training.launch import check_sharding, end_processes, note_unused_gpus
from tests.support.tiny_recipe import tiny_recipe


@pytest.fixture
def on_several_cpus(monkeypatch):
    """As if accelerate had found several processes without a GPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    make_state = PartialState.__init__

    def init(self, *args, **kwargs):
        make_state(self, *args, **kwargs)
        self.distributed_type = DistributedType.MULTI_CPU

    monkeypatch.setattr(PartialState, "__init__", init)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


ADAFACTOR = ["optimizer=adafactor", "training.optim=null"]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP1"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP1"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
    ],
)
def test_adafactor_is_refused_by_name_where_weights_are_flattened(tmp_path, monkeypatch, environment, name):
    recipe = tiny_recipe(tmp_path, *ADAFACTOR)
    arguments = training_arguments(recipe)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=rf"optimizer=adafactor cannot .* {name}.*fsdp2.yaml.*training.optim=adamw"):
        check_sharding(recipe, arguments)
    recipe.optimizer = "trainer"
    check_sharding(recipe, arguments)


@pytest.mark.parametrize(("version", "name"), [("1", "FSDP1"), ("2", "FSDP2")])
def test_transformers_adafactor_is_refused_by_name_on_shards(tmp_path, monkeypatch, version, name):
    """On FSDP2 it fails at the first step, on FSDP1 it computes something else."""
    recipe = tiny_recipe(tmp_path, "optimizer=trainer", "training.optim=adafactor")
    arguments = training_arguments(recipe)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(ValueError, match=rf"training.optim=adafactor cannot .* {name} splits.*optimizer=adafactor"):
        check_sharding(recipe, arguments)


def test_deepspeed_is_refused_by_name_where_tokens_cut_micro_batches(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path, "max_tokens_per_micro_batch=60")
    arguments = training_arguments(recipe)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"max_tokens_per_micro_batch conflicts with DeepSpeed.*DDP or FSDP2"):
        check_sharding(recipe, arguments)


def test_the_recipe_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP1"):
        training_arguments(tiny_recipe(tmp_path, *ADAFACTOR))


def test_fsdp_on_cpus_is_refused(tmp_path, monkeypatch, on_several_cpus):
    """accelerate 1.15 would leave it out there, and say nothing."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"FSDP1 needs GPUs.*cpu_2proc.yaml"):
        training_arguments(tiny_recipe(tmp_path))


def test_adafactor_runs_on_fsdp2_and_on_whole_weights(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path, *ADAFACTOR)
    training_arguments(recipe)
    assert sharding(recipe.training) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    training_arguments(recipe)
    assert sharding(recipe.training) == "FSDP2"


@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_end_before_python_shuts_down(monkeypatch, processes):
    """gloo's threads may abort a process that is shutting down; one process has none, and goes on."""
    state, done = PartialState(cpu=True), []
    monkeypatch.setitem(state._shared_state, "num_processes", processes)
    monkeypatch.setattr("stoical.training.launch.atexit._run_exitfuncs", lambda: done.append("atexit"))
    monkeypatch.setattr("stoical.training.launch.os._exit", done.append)
    end_processes()
    assert done == ([] if processes == 1 else ["atexit", 0])


def test_the_cache_layout_is_refused_where_layers_run_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    training_arguments(tiny_recipe(tmp_path, "layout=cache"))
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    training_arguments(tiny_recipe(tmp_path))
    with pytest.raises(ValueError, match=r"layout=cache conflicts with fsdp_activation_checkpointing.*layout=sequence"):
        training_arguments(tiny_recipe(tmp_path, "layout=cache"))


def test_unused_gpus_are_named_with_the_command_that_uses_them(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU-{index}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    note_unused_gpus(["train.py", "recipe=wordnet_alpha2"])
    said = capsys.readouterr().err
    assert "unused: 1 (GPU-1), 2 (GPU-2)" in said
    assert "--config_file accelerate_configs/ddp.yaml --num_processes=3 train.py recipe=wordnet_alpha2" in said
    for program in ("/usr/bin/stoical", "/x/stoical/__main__.py"):
        note_unused_gpus([program, "train", "recipe=wordnet_alpha2"])
        assert "--num_processes=3 -m stoical train recipe=wordnet_alpha2" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 1])
def test_no_note_where_no_gpu_is_unused(monkeypatch, capsys, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    note_unused_gpus(["train.py", "recipe=wordnet_alpha2"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("metric", "greater"), [("cvr", False), ("eval_invalid_rate", False), ("ndcg", True), ("recall@2", True)]
)
def test_the_best_checkpoint_is_the_one_that_the_metrics_own_table_calls_better(metric, greater, tmp_path):
    recipe = tiny_recipe(tmp_path, f"training.metric_for_best_model={metric}", "training.eval_strategy=steps")
    assert training_arguments(recipe).greater_is_better is greater
