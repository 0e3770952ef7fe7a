"""The launcher files: accelerate's own schema and launcher read every key of them, as they are meant."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.commands.to_fsdp2 import ARGUMENT_KEY_MAPPING, ConversionStatus
from accelerate.utils import FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from tests.support.root import ACCELERATE_CONFIGS as CONFIGS

KINDS = {
    "single_gpu": "NO",
    "ddp": "MULTI_GPU",
    "cpu_2proc": "MULTI_GPU",
    "fsdp2": "FSDP",
    "multi_node": "FSDP",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
}


def launched(name, *words):
    """What `accelerate launch --config_file NAME.yaml` makes of the file."""
    parser = launch_command_parser()
    arguments = parser.parse_args(["--config_file", str(CONFIGS / f"{name}.yaml"), *words, "train.py"])
    return _validate_launch_command(arguments)[0]


def test_every_file_is_listed_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_knows_every_key(name):
    """Unknown keys at the top are accelerate's own error; nested ones it would take and never read."""
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type.value == KINDS[name]
    options = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= options


@pytest.mark.parametrize("name", KINDS)
def test_the_launcher_takes_it(name):
    arguments = launched(name)
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert arguments.mixed_precision == given["mixed_precision"]
    assert arguments.num_processes == given["num_processes"]
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (KINDS[name] == "FSDP", KINDS[name] == "DEEPSPEED")


@pytest.mark.parametrize("name", ["fsdp2", "multi_node"])
def test_fsdp2_is_read_as_meant(name, caplog):
    """FSDP2, by transformer layers, full state dicts, weights read once a machine; nothing that FSDP2 has dropped."""
    keys = load_config_from_file(str(CONFIGS / f"{name}.yaml")).fsdp_config
    assert not [key for key in keys if isinstance(ARGUMENT_KEY_MAPPING.get(key), ConversionStatus)]
    environment = prepare_multi_gpu_env(launched(name, "--machine_rank=1", "--main_process_port=0"))
    with patch_environment(**{key: value for key, value in environment.items() if key.startswith("FSDP_")}):
        plugin = FullyShardedDataParallelPlugin()
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.transformer_cls_names_to_wrap is None  # the model's own _no_split_modules
    assert plugin.cpu_ram_efficient_loading is True
    assert plugin.activation_checkpointing is False
    assert not caplog.records


def test_several_machines_share_the_processes():
    arguments = launched(
        "multi_node", "--num_machines=4", "--num_processes=32", "--machine_rank=3", "--main_process_ip=h0"
    )
    environment = prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("4", "8", 3)
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "h0:29500")
    assert environment["FSDP_VERSION"] == "2"


@pytest.mark.parametrize(("name", "stage"), [("zero2", "2"), ("zero3", "3")])
def test_zero_stages_are_read_as_meant(name, stage):
    """DeepSpeed is not installed for the tests: this is what its launcher would be told."""
    arguments = launched(name, "--main_process_port=0")
    arguments.deepspeed_fields_from_accelerate_config = ""  # as `launch_command` sets it; for other checks only
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
    assert environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == str(stage == "3").lower()
    assert environment["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] == "none"
    if stage == "3":
        assert environment["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"


def test_slurm_gives_every_machine_its_rank_and_the_arguments_whole(tmp_path):
    """With stand-ins: srun runs the command once a machine, scontrol names two, accelerate prints what it is given."""
    stand_ins = {
        "srun": 'for node in 0 1; do SLURM_NODEID=$node "$@"; done',
        "scontrol": "echo node-a; echo node-b",
        "accelerate": r"""printf '%s|' "$@"; echo""",
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "x",
        "SLURM_NNODES": "2",
    }
    command = ["bash", str(CONFIGS / "slurm.sh"), "recipe=wordnet_alpha2", "prompt.template=my file.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        assert f"--num_machines|2|--machine_rank|{rank}|--num_processes|16|--main_process_ip|node-a|" in line
        assert line.endswith("|train.py|recipe=wordnet_alpha2|prompt.template=my file.yaml|")
