"""Whether a run fits: the estimate for a recipe on this machine, what the device has, and what would save how much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedConfig, PreTrainedModel

from stoical.common.places import shipped
from stoical.config.recipe import Recipe
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.models.adapters import add_lora
from stoical.models.flat_row import FlatRow, is_flat
from stoical.models.layouts import Layout
from stoical.models.reading import plain_head
from stoical.models.text_part import freeze_other_parts
from stoical.objectives.build import build_objectives
from stoical.runs.processes import sharding
from stoical.training.memory import (
    FOUR_BIT,
    GIB,
    MicroBatch,
    ModelShape,
    Split,
    TrainingSetup,
    model_shape,
    step_memory,
)
from stoical.training.micro_batches import TokenBudget, parts_of

LORA_RANK = 16  # of the `lora` and `qlora` overlays
SAMPLE = 64  # queries among which the longest are looked for
GPU, ROOM = 80, 0.9  # GiB of a large GPU, and how much of it an estimate may fill: kernels need room, too


@dataclass(frozen=True, slots=True)
class RunMemory:
    """The estimate's three inputs for one run."""

    shape: ModelShape
    batch: MicroBatch
    setup: TrainingSetup

    @property
    def total(self) -> float:
        """GiB a process."""
        return sum(step_memory(self.shape, self.batch, self.setup).values())

    def __str__(self) -> str:
        parts = step_memory(self.shape, self.batch, self.setup)
        listed = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
        trained = f", {_count(self.shape.trainable)} of them trained" if self.shape.frozen else ""
        return (
            f"memory, estimated, for {_count(self.shape.parameters)} parameters{trained} and a micro-batch of "
            f"{self.batch.rows} x {self.batch.attended // self.batch.rows} tokens: {self.total:.2f} GiB ({listed})"
        )


def _count(parameters: int) -> str:
    """A number of parameters in millions, where it is that many."""
    return f"{parameters / 1e6:,.1f}M" if parameters >= 50_000 else f"{parameters:,}"


def run_memory(recipe: Recipe, model: PreTrainedModel, config: PreTrainedConfig, batch: PackedBatch) -> RunMemory:
    """The estimate for a recipe with `model` (on the meta device) and a packed micro-batch, under this launcher."""
    processes = PartialState().num_processes
    shape = _shape(recipe, model, config)
    setup = TrainingSetup(
        low_precision=bool(recipe.training.get("bf16") or recipe.training.get("fp16")),
        states=1 if recipe.optimizer == "adafactor" else 2,
        checkpointing=_checkpointing(recipe),
        sharding=_split(recipe, processes),
        processes=processes,
        frozen_bytes=_frozen_bytes(recipe, shape),
        trained_bytes=2 if not _frozen(recipe) and recipe.model.dtype == "bfloat16" else 4,
        lora=recipe.lora is not None,
        soft_prompt=recipe.soft_prompt is not None,
        dropout_bytes=_mask_bytes() if recipe.lora and recipe.lora.get("lora_dropout") else 0,
        reference=not _frozen(recipe) and needs_reference(recipe),
        whole_logits=_whole_logits(recipe, model),
    )
    sizes = micro_batch(batch, recipe.layout, recipe.model.attn_implementation)
    if recipe.soft_prompt is not None:
        sizes = sizes.longer(recipe.soft_prompt["num_virtual_tokens"], batch.node_up.shape[1])
    return RunMemory(shape, sizes, setup)


def _frozen(recipe: Recipe) -> bool:
    """True where the model's own weights do not train."""
    return recipe.lora is not None or recipe.soft_prompt is not None


def _shape(recipe: Recipe, model: PreTrainedModel, config: PreTrainedConfig) -> ModelShape:
    if recipe.soft_prompt is not None:
        shape = model_shape(model.requires_grad_(False), config)
        return replace(shape, trainable=recipe.soft_prompt["num_virtual_tokens"] * shape.hidden)
    if recipe.lora is not None:
        return model_shape(add_lora(model, recipe.lora, recipe.seed), config)
    freeze_other_parts(model)
    return model_shape(model, config)


def needs_reference(recipe: Recipe) -> bool:
    """True where the loss compares with the model as it was before training."""
    ranking = recipe.loss.ranking_loss
    return ranking is not None and ranking.needs_reference


def _whole_logits(recipe: Recipe, model: PreTrainedModel) -> bool:
    """True where all logits are there at once: an objective reads them, or the head is no plain linear layer."""
    objectives = build_objectives(recipe.loss, recipe.mitigations, recipe.eval.score)
    return plain_head(model) is None or any(objective.needs_logits for objective in objectives.values())


def _mask_bytes() -> int:
    """Bytes of an element of a dropout mask on this process's device."""
    return 1 if PartialState().device.type == "cuda" else 4


def _frozen_bytes(recipe: Recipe, shape: ModelShape) -> float:
    """Bytes of a weight that is loaded, the mean of embeddings and head, which stay whole, and quantized layers."""
    whole = 2.0 if recipe.model.dtype == "bfloat16" else 4.0
    if recipe.quantization is None:
        return whole
    quantized = FOUR_BIT if recipe.quantization.get("load_in_4bit") else 1.0
    ends = shape.ends / shape.frozen
    return whole * ends + quantized * (1 - ends)


def micro_batch(batch: PackedBatch, layout: Layout, attention: str) -> MicroBatch:
    """The sizes of a packed batch as it runs in this layout, with this attention."""
    (rows, total), nodes = batch.input_ids.shape, batch.node_up.shape[1]
    if layout == "pointwise":
        paths = len(batch.node_parent) - len(set(batch.node_parent.tolist()))  # one row a leaf
        steps = int(batch.node_depth.max())
        tokens = paths * (batch.prompt_width + steps - 1)
        return MicroBatch(rows, tokens, tokens, paths * steps, 0)
    if layout == "sequence" and is_flat(attention, rows):
        slots = len(FlatRow.of(batch).read)
        return MicroBatch(rows, batch.num_tokens, rows * total, slots, rows * nodes * total)
    return MicroBatch(rows, rows * total, rows * total, rows * (nodes + 1), rows * nodes * total)


def largest_batch(dataset: EncodedDataset, rows: int, collate: TrieTargetCollator | TokenBudget) -> PackedBatch:
    """A micro-batch of the longest among the first queries, which is what has to fit."""
    queries = [dataset[place] for place in range(min(max(SAMPLE, rows), len(dataset)))]
    queries.sort(key=lambda query: -len(query.prompt_ids) - sum(map(len, query.docid_ids)))
    return parts_of(collate(queries[:rows])["batch"])[0]


def _checkpointing(recipe: Recipe) -> bool:
    by_recipe = any(recipe.training.get(key) for key in ("activation_checkpointing", "gradient_checkpointing"))
    return by_recipe or parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING")


def _split(recipe: Recipe, processes: int) -> Split:
    """What the processes share of a model. A ZeRO stage that neither launcher nor recipe gives counts as 2."""
    kind = sharding(recipe.training)
    if kind == "DeepSpeed":
        return "full" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else "zero2"
    if kind is not None:
        return "full"
    return "ddp" if processes > 1 else "none"


def savings(run: RunMemory, limit: float, layout: Layout, devices: int) -> list[tuple[float, str]]:
    """(GiB saved, what to set), the most effective first; `limit`: GiB that the device has."""
    options = ((run.total - changed.total, advice) for advice, changed in _changes(run, limit, layout, devices))
    return sorted((option for option in options if option[0] > 0), reverse=True)


def _changes(run: RunMemory, limit: float, layout: Layout, devices: int) -> Iterator[tuple[str, RunMemory]]:
    shape, setup = run.shape, run.setup
    if not setup.checkpointing and layout != "cache":
        yield "training.activation_checkpointing=true", replace(run, setup=replace(setup, checkpointing=True))
    sizes = [run.batch.rows >> halvings for halvings in range(1, run.batch.rows.bit_length())]
    smaller = [replace(run, batch=run.batch.smaller(rows)) for rows in sizes]
    if smaller:
        best = next((one for one in smaller if one.total <= limit), smaller[-1])
        yield f"training.per_device_train_batch_size={best.batch.rows}", best
    if setup.sharding in ("none", "ddp"):
        split = replace(run, setup=replace(setup, sharding="full", processes=devices))
        yield f"FSDP2 over {devices} devices ({shipped('accelerate_configs') / 'fsdp2.yaml'})", split
    if setup.soft_prompt:  # adapters would take more
        return
    lora = run if setup.lora else _with_lora(run)
    if not setup.lora:
        yield "LoRA (recipe=...,lora)", lora
    if not setup.lora or setup.frozen_bytes >= 2:
        four_bit = (2 * shape.ends + FOUR_BIT * (shape.parameters - shape.ends)) / shape.parameters
        yield "QLoRA (recipe=...,qlora)", replace(lora, setup=replace(lora.setup, frozen_bytes=four_bit))


def _with_lora(run: RunMemory) -> RunMemory:
    """The run with the `lora` overlay."""
    shape = replace(run.shape, trainable=LORA_RANK * run.shape.linear_sizes, frozen=run.shape.parameters)
    setup = replace(run.setup, lora=True, dropout_bytes=_mask_bytes(), frozen_bytes=2.0, trained_bytes=4, states=2)
    return replace(run, shape=shape, setup=setup)


def device_memory() -> tuple[float, str]:
    """GiB that this process can have, and where they are."""
    state = PartialState()
    if state.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(state.device)
        return free / GIB, f"free on {torch.cuda.get_device_name(state.device)}, of {total / GIB:.1f}"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return memory / local, "of this machine" + (f", whose {memory:.1f} are for {local} processes" if local > 1 else "")


def full_fine_tuning(run: RunMemory, layout: Layout) -> str | None:
    """How many large GPUs training all weights takes with FSDP2; None where adapters are trained, or none would do."""
    if run.setup.lora or run.setup.soft_prompt:
        return None
    checkpointing = layout != "cache"
    for devices in (1, 2, 4, 8, 16, 32, 64):
        split: Split = "full" if devices > 1 else "none"
        setup = replace(run.setup, checkpointing=checkpointing, sharding=split, processes=devices)
        each = replace(run, batch=run.batch.smaller(1), setup=setup).total
        if each <= ROOM * GPU:
            how = "training.per_device_train_batch_size=1" + ", training.activation_checkpointing=true" * checkpointing
            where = f"one GPU of {GPU} GiB" if devices == 1 else f"{devices} GPUs of {GPU} GiB by FSDP2"
            return f"Training all weights, as here, fits on {where}: {each:.1f} GiB each with {how}."
    return None


def shortage(run: RunMemory, layout: Layout) -> str | None:
    """What to say where the estimate is over what the device has; None where it fits.

    What training all weights takes comes first, then what would save how much, adapters among it.
    """
    limit, place = device_memory()
    if run.total <= limit:
        return None
    devices = max(2, PartialState().num_processes, torch.cuda.device_count())
    lines = [f"{run}", f"That is more than the {limit:.1f} GiB {place}.", full_fine_tuning(run, layout)]
    lines += ["What would save how much of it:"]
    lines += [f"  {saved:7.1f} GiB  {advice}" for saved, advice in savings(run, limit, layout, devices)]
    return "\n".join(line for line in lines if line)
