"""What two processes do for test_sharding.py: two optimizers' trainings, and what FSDP2 can get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from stoical.commands import evaluate, train
from stoical.models import chunked_head, reading
from stoical.training.adafactor import Adafactor
from stoical.training.launch import end_processes
from tests.support.small_data import TINY

STEPS = 20
OPTIMIZERS = {"adafactor": ["optimizer=adafactor", "training.optim=null"], "adamw": ["optimizer=trainer"]}
EVERY = [
    f"training.max_steps={STEPS}",
    "training.learning_rate=5e-3",
    "training.warmup_steps=2",
    "training.lr_scheduler_type=constant_with_warmup",
    "training.per_device_train_batch_size=2",
    "training.logging_steps=1",
    "training.eval_steps=10",
    "training.save_steps=10",
]
UNTIED = ["training.max_steps=5", "model.config.tie_word_embeddings=false"]
SHAPES = [(7, 5), (1, 6), (4, 6), (3,), (1,), (5, 3, 4), (1, 4, 3), (2, 2, 3, 4)]


def train_run(directory: Path, name: str, *extra: str) -> None:
    """20 steps on `directory`/data, clipped, into `directory`/NAME, with the optimizer that NAME starts with."""
    words = [*TINY, *EVERY, *OPTIMIZERS[name.partition("_")[0]], *extra]
    words += ["recipe=wordnet_alpha2,small", f"data.path={directory.parent / 'data'}", f"output={directory / name}"]
    train.main(list({word.partition("=")[0]: word for word in words}.values()))


@contextmanager
def small_chunks() -> Iterator[None]:
    """The vocabulary's 300 logits are made in chunks of 50, however few slots there are."""
    whole, made = (chunked_head.CHUNK, chunked_head.LEAST, reading.chunked_logprobs), []
    chunked_head.CHUNK, chunked_head.LEAST = 0, 50
    reading.chunked_logprobs = lambda *given, **asked: made.append(1) or whole[2](*given, **asked)
    try:
        yield
    finally:
        chunked_head.CHUNK, chunked_head.LEAST, reading.chunked_logprobs = whole
    assert made


def let_fsdp_run_on_cpus() -> None:
    """Two gloo processes stand for two GPUs: accelerate shards over GPUs only, and would leave it out on CPUs."""
    make = PartialState.__init__

    def init(self, *args, **kwargs):
        make(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


class Weights(nn.Module):
    """Parameters of every shape; the forward's gradient for each is what it is multiplied with."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(torch.randn(*shape, generator=generator) for shape in shapes)

    def forward(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        return sum((weight * gradient).sum() for weight, gradient in zip(self.weights, gradients, strict=True))


def last_dimension(parameter: nn.Parameter) -> Shard:
    return Shard(parameter.ndim - 1)


def sharded_adafactor(shapes: list[tuple[int, ...]], placement: object = None) -> dict[str, float]:
    """Largest difference, after 10 steps, of shards from whole weights; and of a loaded state from the saved one."""
    whole, start = Weights(shapes), Weights(shapes)
    sharded, fresh = (fully_shard(Weights(shapes), shard_placement_fn=placement) for _ in range(2))
    optimizers = [Adafactor(model.parameters(), lr=0.02, weight_decay=0.1) for model in (whole, sharded, fresh)]
    generator = torch.Generator().manual_seed(1)
    for step in range(10):
        gradients = [(torch.randn(shape, generator=generator) + 1) * 10.0 ** (step % 3 - 1) for shape in shapes]
        for model, optimizer in zip((whole, sharded), optimizers, strict=False):
            model(gradients).backward()
            optimizer.step()
            optimizer.zero_grad()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True)  # as accelerate
    saved = get_optimizer_state_dict(sharded, optimizers[1], options=options)
    set_optimizer_state_dict(fresh, optimizers[2], saved, options=options)
    states = [[optimizer.state[p] for p in optimizer.param_groups[0]["params"]] for optimizer in optimizers[1:]]
    pairs = [(one[name], other[name]) for one, other in zip(*states, strict=True) for name in one]
    return {
        "moved": min(difference(*pair) for pair in zip(whole.weights, start.weights, strict=True)),
        "difference": max(difference(*pair) for pair in zip(whole.weights, sharded.weights, strict=True)),
        "lost": max(difference(one, other) for one, other in pairs),
        "sharded_differently": sum(placements(one) != placements(other) for one, other in pairs),
    }


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = (t.full_tensor() if isinstance(t, DTensor) else t for t in (one.detach(), other.detach()))
    return float((one - other).abs().max())


def placements(tensor: torch.Tensor) -> object:
    return tensor.placements if isinstance(tensor, DTensor) else None


def check_shards(directory: Path) -> None:
    """What only FSDP2 can get wrong: resuming, weights that one process reads, bfloat16, Adafactor's moments."""
    for name in OPTIMIZERS:
        train_run(directory, f"{name}_resumed", f"resume={directory / name / 'checkpoint-10'}")
    train_run(directory, "adamw_budget", "max_tokens_per_micro_batch=45")
    train_run(directory, "adafactor_pretrained", *pretrained(directory / "adafactor"))
    with small_chunks():
        train_run(directory, "adamw_untied", *UNTIED)
        train_run(directory, "adafactor_bf16_chunked", "training.max_steps=5", "training.bf16=true")
    train_run(directory, "adafactor_bf16", "training.max_steps=5", "training.bf16=true")
    policy = AcceleratorState().fsdp_plugin.mixed_precision_policy
    even = [shape for shape in SHAPES if shape[-1] % 2 == 0]  # all that FSDP2 splits in another dimension
    facts = {
        "rows": sharded_adafactor(SHAPES),
        "columns": sharded_adafactor(even, last_dimension),
        "computes_in": str(policy.param_dtype),
        "adds_up_in": str(policy.reduce_dtype),
        "gradients_stay_sharded": GradientState().plugin_kwargs.get("sync_each_batch", False),
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    evaluate.main([f"checkpoint={directory / 'adafactor'}", f"output={directory / 'eval_by_two'}"])
    if PartialState().is_main_process:
        (directory / "facts.json").write_text(json.dumps(facts))


def pretrained(run: Path) -> list[str]:
    """Words for a few steps from a run's last weights."""
    return ["training.max_steps=3", "model.from_scratch=false", f"model.name={run / f'checkpoint-{STEPS}'}"]


def train_all(directory: Path) -> None:
    """A run for each optimizer, into `directory`; where weights are sharded, also what is looked at for shards."""
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if sharded:
        let_fsdp_run_on_cpus()
    for name in OPTIMIZERS:
        train_run(directory, name)
    with small_chunks():
        train_run(directory, "adamw_chunked", "training.max_steps=5")
    if sharded:
        check_shards(directory)
    end_processes()
