"""NEFTune is transformers' own: it reaches our forward passes in training, and no other pass that a run makes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.distributed import HashStore
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback
from transformers.integrations.neftune import activate_neftune

from stoical.config.loading import load_recipe
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.forward import node_logprobs
from stoical.training.build import build_trainer
from stoical.training.trainer import StoicalTrainer
from stoical.trie.node_weights import TargetSettings
from tests.support.random_queries import ragged_queries
from tests.support.small_data import TINY, write_dataset
from tests.support.tiny_model import tiny_model

ALPHA = 50.0  # ten times the overlay's: what it reached by mistake would differ by far more than rounding
HIDDEN = 16


@dataclass(frozen=True)
class Call:
    """One use of the embedding: in training mode? What was added to its rows [B, L, d]?"""

    training: bool
    noise: Tensor

    def parts(self, lengths: list[int]) -> list[Tensor]:
        """The noise of each query [length, d] in a flat row, or of each row [L, d] in a rectangle as wide as told."""
        flat = self.noise.flatten(0, 1)
        return list(flat.split(lengths if len(self.noise) == 1 else lengths * len(self.noise)))


def share(noise: Tensor) -> float:
    """Of the paper's bound, alpha / sqrt(L d), for a sequence's noise [L, d]."""
    return float(noise.abs().max()) / (ALPHA / math.sqrt(noise.numel()))


class Recorder(TrainerCallback):
    """Notes every use of the embedding from the start of training, when NEFTune's hook is there."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def on_train_begin(self, *_: Any, model: nn.Module, **__: Any) -> None:
        model.get_input_embeddings().register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        clean = nn.functional.embedding(inputs[0], module.weight)
        self.calls.append(Call(module.training, (output - clean).detach()))


@pytest.fixture(autouse=True)
def fresh_process() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("neftune") / "data"
    write_dataset(data)
    return data


def train(data: Path, output: Path, *own: str) -> tuple[StoicalTrainer, list[Call]]:
    basic = ["recipe=wordnet_beta2,small,neftune", f"data.path={data}", f"output={output}", *TINY]
    basic += ["training.eval_steps=1", "training.save_strategy=no", f"training.neftune_noise_alpha={ALPHA}"]
    trainer = build_trainer(load_recipe(*{word.partition("=")[0]: word for word in [*basic, *own]}.values()))
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    return trainer, recorder.calls


def query_lengths(batch: PackedBatch) -> list[int]:
    """Each query's prompt tokens and inner nodes: the columns that are some node's parent."""
    row, column = torch.stack([batch.node_row, batch.node_col]).unique(dim=1)
    inner = torch.bincount(row[column >= batch.prompt_width], minlength=len(batch.query_ids))
    return (batch.prompt_lengths + inner).tolist()


def embedded(batches: list[PackedBatch], layout: str) -> list[list[int]]:
    """L of what a layout embeds, call by call: of each query, or of the rows of prompts and then of those of nodes."""
    if layout == "sequence":
        return [query_lengths(batch) for batch in batches]
    return [[width] for batch in batches for width in (batch.prompt_width, batch.node_up.shape[1])]


CASES = {
    "sequence": ("sequence", []),
    "cache": ("cache", ["layout=cache"]),
    "lora": ("sequence", ["recipe=wordnet_beta2,small,neftune,lora", "model.dtype=float32", "lora.r=2"]),
}


@pytest.mark.parametrize("case", CASES)
def test_training_passes_are_noisy_and_all_others_clean(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-check, which compares layouts to 1e-3 nats, and an evaluation after every step are among the others."""
    layout, own = CASES[case]
    batches: list[PackedBatch] = []
    compute_loss = StoicalTrainer.compute_loss

    def noted(self: StoicalTrainer, model: nn.Module, inputs: dict[str, PackedBatch], **kwargs: Any) -> Any:
        batches.append(inputs["batch"])
        return compute_loss(self, model, inputs, **kwargs)

    monkeypatch.setattr(StoicalTrainer, "compute_loss", noted)
    trainer, calls = train(data, tmp_path / "run", *own)
    noisy, clean = [call for call in calls if call.training], [call for call in calls if not call.training]
    assert not any(call.noise.any() for call in clean)
    assert not calls[0].training, "the self-check comes first"
    assert not calls[-1].training, "and an evaluation last"
    assert len(batches) == 3
    for call, lengths in zip(noisy, embedded(batches, layout), strict=True):
        for noise in call.parts(lengths):
            assert 0.9 < share(noise) <= 1
            assert float(noise.abs().mean()) == pytest.approx(float(noise.abs().max()) / 2, rel=0.25), "uniform"
            assert noise.any(dim=1).all(), "on every token"
    assert "neftune_noise_alpha" not in vars(trainer.model.get_input_embeddings()), "nothing of it stays in the model"


def test_passes_that_samples_are_drawn_from_are_clean(data: Path, tmp_path: Path) -> None:
    """Scheduled sampling in three passes draws tokens from a training pass, twice again from `context.predict`, and
    trains on one pass more."""
    own = ["recipe=wordnet_beta2,small,neftune,scheduled_sampling_literal", "training.eval_strategy=no"]
    settings = ["mitigations.scheduled_sampling.half_step=1", "mitigations.scheduled_sampling.passes=3"]
    _, calls = train(data, tmp_path / "run", *own, *settings)
    first = next(place for place, call in enumerate(calls) if call.training)
    assert [call.training for call in calls[first:]] == [True, False, False, True] * 3
    assert [bool(call.noise.any()) for call in calls] == [call.training for call in calls]


@pytest.fixture
def one_process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("layout", ["sequence", "cache"])
def test_it_goes_on_under_ddp(layout: Any) -> None:
    """Activated as Trainer does it, before the model is wrapped: the hook sits on the embedding inside."""
    model = tiny_model()
    batch = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False)(ragged_queries())["batch"]
    clean = node_logprobs(model.eval(), batch, layout).logprobs
    activate_neftune(model, ALPHA)
    wrapped = DistributedDataParallel(model)
    torch.manual_seed(0)
    first, second = (node_logprobs(wrapped.train(), batch, layout).logprobs for _ in range(2))
    torch.manual_seed(0)
    again = node_logprobs(wrapped.train(), batch, layout).logprobs
    assert torch.equal(first, again), "by torch's generator alone, which checkpoints keep"
    assert not torch.allclose(first, second, atol=1e-2)
    assert not torch.allclose(first, clean, atol=1e-2)
    assert torch.equal(node_logprobs(wrapped.eval(), batch, layout).logprobs, clean)
    again.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
