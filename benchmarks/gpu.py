"""Training and scoring on one CUDA GPU at the real 7B shape: packed layouts, FlexAttention, one docID a row.

    python -m benchmarks.gpu                      random weights of Mistral-7B's shape; a GPU of 80 GB or more
    python -m benchmarks.gpu size=tiny            the same on anything, the CPU too
    python -m benchmarks.gpu measure=false        the tables without their numbers, where there is no GPU

A training step is a forward and a backward pass, without the optimizer. `plain` is a causal pass over the padded
rectangle. `flat row` is what runs: tokens without padding, which attention unfolds, and logits a chunk at a time; where
a micro-batch has one query, it is the rectangle. `varlen` leaves the prompts flat within attention, too. `pointwise`
runs one row a docID, of the query of middle length; as many rows as fit pointwise_tokens are timed, and the time is
multiplied up. Tokens a second are the real ones, so that variants compare; MFU counts what a variant itself has to
compute. The difference is the largest of a trie node's log-probability from pointwise, in the same precision, on the
first docIDs of a query.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.flex import FLEX_ATTENTION, flat_flex_logprobs, flex_logprobs
from benchmarks.flops import pass_flops, peak_flops
from benchmarks.forward import plain_loss, pointwise_logprobs
from benchmarks.measure import environment, interleaved, markdown_table, spread, write_results
from benchmarks.synthetic import random_query
from benchmarks.varlen import VARLEN_ATTENTION, varlen_logprobs
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.common.places import shipped
from stoical.config.loading import read_layer
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.flat_row import FlatRow
from stoical.models.forward import _one_sequence, node_logprobs
from stoical.models.layouts import TRIE_ATTENTION
from stoical.models.self_check import rows_alone
from stoical.objectives.objective import weighted_nll
from stoical.training.memory import GIB, model_shape
from stoical.trie.node_weights import TargetSettings

COMMAND = "python -m benchmarks.gpu"
TINY = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 112, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VARIANTS = {  # name -> attention implementation
    "plain": "sdpa",
    "flat row": TRIE_ATTENTION,
    "flat row, all logits": TRIE_ATTENTION,
    "rectangle": TRIE_ATTENTION,
    "rectangle, 4D mask": "sdpa",
    "cache": TRIE_ATTENTION,
    "rectangle, FlexAttention": FLEX_ATTENTION,
    "flat row, FlexAttention": FLEX_ATTENTION,
    "flat row, varlen": VARLEN_ATTENTION,
    "pointwise": "sdpa",
}
PACKED: dict[str, Callable[[PreTrainedModel, PackedBatch], Tensor]] = {  # name -> [M] log-probabilities
    "flat row": lambda model, batch: node_logprobs(model, batch).logprobs,
    "flat row, all logits": lambda model, batch: node_logprobs(model, batch, keep="logits").logprobs,
    "rectangle": lambda model, batch: _one_sequence(model, batch, False, None, "logprobs").logprobs,
    "rectangle, 4D mask": lambda model, batch: node_logprobs(model, batch).logprobs,
    "cache": lambda model, batch: node_logprobs(model, batch, "cache").logprobs,
    "rectangle, FlexAttention": flex_logprobs,
    "flat row, FlexAttention": flat_flex_logprobs,
    "flat row, varlen": varlen_logprobs,
}
COLUMNS = ("seconds", "queries/s", "tokens/s", "MFU", "peak, GiB", "speed-up", "difference, nats", "noise")
NOT_MEASURED = "not measured"


@dataclass
class GpuOptions:
    """What the user can set; `--help` prints it."""

    size: Literal["7b", "tiny"] = option("7b", "the model: Mistral-7B-v0.3's shape, or one for tests")
    batches: str = option(
        "wordnet:8x320x10,esci:1x6000x100",
        "name:queries x prompt tokens (of the longest; the shortest has half) x docIDs of a micro-batch, ...",
    )
    dtype: Literal["bfloat16", "float32"] = option("bfloat16", "of weights, gradients and computation")
    checkpointing: bool = option(False, "activation checkpointing while training (cache cannot)")
    budget: float = option(30.0, "seconds to spend on a batch, training and scoring each")
    rounds: int = option(3, "rounds to make at least, and with more time up to 40")
    pointwise_tokens: int = option(4096, "run no more tokens than this in one pointwise call, and multiply up")
    seed: int = option(0, "seed of weights, prompts and docIDs")
    measure: bool = option(True, "false: write the tables with every cell not measured")
    out: str = option("gpu", "results go to benchmarks/results/<out>.json and .md")


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch on the device, its middle query, and how many of that query's docIDs one pointwise call runs."""

    name: str
    packed: PackedBatch
    query: TokenizedQuery
    rows: int

    @property
    def repeats(self) -> float:
        """How many pointwise calls make up the micro-batch."""
        return len(self.packed.query_ids) * len(self.query.docids) / self.rows

    def work(self, variant: str) -> tuple[float, float, float]:
        """(tokens, slots, pairs attended to) of one call of a variant."""
        packed = self.packed
        if variant == "pointwise":
            prompt = len(self.query.prompt_ids)
            lengths = [prompt + len(ids) - 1 for ids in self.query.docid_ids[: self.rows]]
            longest = max(map(len, self.query.docid_ids[: self.rows]))
            return sum(lengths), longest * self.rows, sum(length * (length + 1) / 2 for length in lengths)
        rows, nodes, total = packed.node_mask.shape
        if variant == "plain":
            return rows * total, rows * (nodes + 1), total * (total + 1) / 2 * rows
        prompts = packed.prompt_lengths.double()
        pairs = float((prompts * (prompts + 1) / 2).sum() + packed.node_mask[packed.holds_tokens[:, -nodes:]].sum())
        if variant.startswith("flat row"):
            return packed.num_tokens, len(FlatRow.of(packed).read), pairs
        return rows * total, rows * (nodes + 1), pairs


def make_batch(text: str, options: GpuOptions, vocabulary: int, device: torch.device) -> Batch:
    """A random micro-batch such as `wordnet:8x320x10`. Raises `ValueError` for anything else."""
    name, _, sizes = text.partition(":")
    numbers = [int(word) for word in sizes.split("x") if word.isdecimal() and int(word)]
    if not name or len(numbers) != 3 or sizes != "x".join(map(str, numbers)):
        raise ValueError(f"batches: {text!r} is not of the form wordnet:8x320x10 (queries x prompt tokens x docIDs)")
    rows, prompt, docs = numbers
    lengths = [prompt - row * prompt // (2 * rows) for row in range(rows)]
    queries = [random_query(options.seed + row, length, docs, vocabulary) for row, length in enumerate(lengths)]
    collate = TrieTargetCollator(TargetSettings(item="fractional", alpha=2.0), pad_id=0, prune=True)
    middle = queries[rows // 2]
    longest = len(middle.prompt_ids) + max(len(ids) for ids in middle.docid_ids) - 1
    chunk = min(docs, max(1, options.pointwise_tokens // longest))
    return Batch(text, collate(queries)["batch"].to(device), middle, chunk)


def make_model(options: GpuOptions, device: torch.device) -> PreTrainedModel:
    """Random weights, made on the device."""
    overlay = shipped("recipes") / "overlays" / "random_7b.yaml"
    shape = TINY if options.size == "tiny" else read_layer(overlay)[1].model.config
    config = AutoConfig.for_model("mistral", **dict(shape) | {"sliding_window": None})
    torch.manual_seed(options.seed)
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, options.dtype), attn_implementation=TRIE_ATTENTION
        )
    if options.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def logprobs(variant: str, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[M] log-probability of every trie node by a packed variant (nats)."""
    model.config._attn_implementation = VARIANTS[variant]
    return PACKED[variant](model, batch)


def loss(variant: str, model: PreTrainedModel, batch: Batch) -> Tensor:
    """The variant's loss, a scalar with a graph; pointwise, that of its first docIDs alone."""
    if variant in PACKED:
        return weighted_nll(logprobs(variant, model, batch.packed), batch.packed.node_weights)
    model.config._attn_implementation = VARIANTS[variant]
    if variant == "plain":
        return plain_loss(model, batch.packed)
    weights = torch.arange(1.0, batch.rows + 1, device=batch.packed.input_ids.device) ** -2.0
    return -(weights * pointwise_logprobs(model, batch.query, batch.rows)).sum()


def run_once(variant: str, model: PreTrainedModel, batch: Batch, training: bool) -> None:
    """One training step without the optimizer, or one scoring pass, to its end."""
    model.train(training)
    with torch.set_grad_enabled(training):
        value = loss(variant, model, batch)
    if training:
        model.zero_grad(set_to_none=True)
        value.backward()
    if value.is_cuda:
        torch.cuda.synchronize()


def try_variant(variant: str, model: PreTrainedModel, batch: Batch, training: bool) -> dict[str, Any]:
    """Peak memory of a first call in GiB (None on a CPU), or why there is none."""
    cuda = batch.packed.input_ids.is_cuda
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        run_once(variant, model, batch, training)
    except torch.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        return {"failed": "out of memory"}
    except (NotImplementedError, ValueError) as error:
        return {"failed": "not supported", "reason": str(error)}
    return {"peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None}


def measure_batch(model: PreTrainedModel, batch: Batch, options: GpuOptions) -> dict[str, Any]:
    """Both modes of one micro-batch: seconds, peak memory, work, and the differences from pointwise."""
    result: dict[str, Any] = {"batch": batch.name, "queries": len(batch.packed.query_ids)}
    result |= {"tokens": batch.packed.num_tokens, "repeats": batch.repeats}
    result["difference"] = differences(model, batch.packed)
    for mode, training in (("training", True), ("scoring", False)):
        found = {name: try_variant(name, model, batch, training) for name in VARIANTS}
        calls = {
            name: lambda name=name, training=training: run_once(name, model, batch, training)
            for name, facts in found.items()
            if "failed" not in facts
        }
        for name, times in interleaved(calls, options.budget, (options.rounds, 40), few={"pointwise": 5}).items():
            tokens, slots, pairs = batch.work(name)
            flops = pass_flops(model_shape(model, model.config), tokens, slots, pairs, training)
            found[name] |= {"seconds": times["wall"], "flops": flops}
        result[mode] = found
    return result


@torch.no_grad()
def differences(model: PreTrainedModel, batch: PackedBatch) -> dict[str, float]:
    """Of each packed variant: the largest difference of a node's log-probability from a row of its own (nats)."""
    model.eval()
    model.config._attn_implementation = VARIANTS["pointwise"]
    alone = list(rows_alone(model, batch))
    found = {name: logprobs(name, model, batch) for name in PACKED}
    return {name: max(float((node[path] - own).abs().max()) for path, own in alone) for name, node in found.items()}


def summarise(results: list[dict[str, Any]], mode: str, peak: float | None) -> str:
    """The table of one mode; `peak`: the device's FLOP/s, if known."""
    return markdown_table([_row(result, mode, name, peak) for result in results for name in VARIANTS])


def _row(result: Mapping[str, Any], mode: str, name: str, peak: float | None) -> dict[str, str]:
    facts = result.get(mode, {}).get(name, {"failed": NOT_MEASURED})
    cells = dict.fromkeys(COLUMNS, facts.get("failed", "-"))
    if "seconds" in facts:
        once = median(facts["seconds"])
        scale = result["repeats"] if name == "pointwise" else 1.0
        pointwise = result[mode]["pointwise"].get("seconds")
        cells["seconds"] = f"{once * scale:.4g}"
        cells["queries/s"] = f"{result['queries'] / (once * scale):.4g}"
        cells["tokens/s"] = f"{result['tokens'] / (once * scale):,.0f}"
        cells["MFU"] = f"{facts['flops'] / once / peak:.1%}" if peak else "-"
        cells["peak, GiB"] = "-" if facts["peak_gib"] is None else f"{facts['peak_gib']:.1f}"
        cells["speed-up"] = f"{median(pointwise) * result['repeats'] / (once * scale):.1f}" if pointwise else "-"
        cells["difference, nats"] = f"{result['difference'][name]:.1e}" if name in result["difference"] else "-"
        cells["noise"] = f"{spread(facts['seconds']):.0%}"
    return {"queries x prompt x docIDs": result["batch"], "variant": name, **cells}


def run(options: GpuOptions) -> None:
    """Measure every micro-batch and write the results."""
    names = options.batches.split(",")
    if not options.measure:
        results: list[dict[str, Any]] = [{"batch": name} for name in names]
        peak, facts = None, {"hardware": "no GPU was at hand, and nothing was measured"}
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if options.size == "7b" and device.type == "cpu":
            raise ValueError("size=7b needs a CUDA GPU; size=tiny runs here, and measure=false writes the empty tables")
        model = make_model(options, device)
        vocabulary = model.config.vocab_size
        results = [measure_batch(model, make_batch(name, options, vocabulary, device), options) for name in names]
        peak, facts = peak_flops(torch.cuda.get_device_name()) if device.type == "cuda" else None, environment()
    if peak:
        facts["peak_tflops"] = peak / 1e12
    tables = {mode: summarise(results, mode, peak) for mode in ("training", "scoring")}
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, tables, facts)


def main() -> int:
    """Entry point of `python -m benchmarks.gpu`."""
    command = Command(__doc__ or "", lambda given: run(given.options), GpuOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
