"""Peak memory and time of a micro-batch whose vocabulary is large: all logits at once, and a chunk at a time.

    python -m benchmarks.head
    python -m benchmarks.head sizes=512x150000 queries=2

A model with random weights and two layers, on queries of random tokens. A training step is forward and backward, with
the gradients that it leaves; scoring is forward alone. Peak memory is that of a process of its own for each way, on the
CPU, beyond what the process held before with model and batch in it. `nats` is the largest difference of a
log-probability, `gradients` that of the gradients over their norm.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel

from benchmarks.measure import Times, compared, interleaved, markdown_table, write_results
from benchmarks.synthetic import random_query
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.forward import node_logprobs
from stoical.models.layouts import TRIE_ATTENTION
from stoical.models.reading import Keep
from stoical.objectives.objective import weighted_nll
from stoical.training.memory import GIB
from stoical.trie.node_weights import TargetSettings

COMMAND = "python -m benchmarks.head"
WAYS: dict[str, Keep] = {"all": "logits", "chunks": "logprobs"}
HEAD_SIZE = 64  # of an attention head


@dataclass
class HeadOptions:
    """What the user can set; `--help` prints it."""

    sizes: str = option("64x150000,512x32768", "hidden size x vocabulary, ...")
    queries: int = option(8, "queries of the micro-batch")
    prompt: int = option(256, "prompt tokens of a query")
    docs: int = option(40, "docIDs of a query")
    threads: int = option(1, "torch threads")
    budget: float = option(20.0, "seconds to spend on a size, training and scoring each; at least 3 rounds")
    seed: int = option(0, "seed of weights, prompts and docIDs")
    out: str = option("head", "results go to benchmarks/results/<out>.json and .md")


def make(size: str, options: HeadOptions) -> tuple[PreTrainedModel, PackedBatch]:
    """Model and batch of a size such as `64x150000`. Raises `ValueError` for anything else."""
    numbers = [int(word) for word in size.split("x") if word.isdecimal() and int(word)]
    if len(numbers) != 2 or size != "x".join(map(str, numbers)) or numbers[0] % HEAD_SIZE:
        raise ValueError(f"sizes: {size!r} is not of the form 64x150000 (a multiple of {HEAD_SIZE} x vocabulary)")
    hidden, vocabulary = numbers
    torch.manual_seed(options.seed)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=2,
        num_attention_heads=hidden // HEAD_SIZE,
        num_key_value_heads=hidden // HEAD_SIZE,
        sliding_window=None,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=TRIE_ATTENTION, dtype=torch.float32)
    seeds = range(options.seed, options.seed + options.queries)
    queries = [random_query(seed, options.prompt, options.docs, vocabulary) for seed in seeds]
    collate = TrieTargetCollator(TargetSettings(item="fractional", alpha=2.0), pad_id=0, prune=True)
    return model, collate(queries)["batch"]


def step(model: PreTrainedModel, batch: PackedBatch, keep: Keep, training: bool) -> Tensor:
    """One step, or one scoring pass; [M] the log-probabilities of the nodes."""
    with torch.set_grad_enabled(training):
        logprobs = node_logprobs(model, batch, keep=keep).logprobs
    if training:
        model.zero_grad(set_to_none=True)
        weighted_nll(logprobs, batch.node_weights).backward()
    return logprobs.detach()


def held(line: str) -> float:
    """GiB that the process holds now (`VmRSS`) or held at most (`VmHWM`); `getrusage` would count its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith(line)) * 1024 / GIB


def peaks(size: str, options: HeadOptions, keep: Keep) -> dict[str, float]:
    """GiB beyond model and batch, for scoring and then for training, which takes more. For a process of its own."""
    torch.set_num_threads(options.threads)
    model, batch = make(size, options)
    before, found = held("VmRSS"), {}
    for mode in ("scoring", "training"):
        step(model, batch, keep, mode == "training")
        found[mode] = held("VmHWM") - before
    return found


def differences(model: PreTrainedModel, batch: PackedBatch) -> dict[str, float]:
    """The two ways' largest difference in nats, and that of gradients, relative to their norm."""
    found = {}
    for way, keep in WAYS.items():
        logprobs = step(model, batch, keep, training=True)
        found[way] = logprobs, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    (one, expected), (other, gradient) = found["all"], found["chunks"]
    return {
        "nats": float((one - other).abs().max()),
        "gradients": float((gradient - expected).norm() / expected.norm()),
    }


def measure(size: str, options: HeadOptions) -> dict[str, Any]:
    """Everything about one size."""
    result: dict[str, Any] = {"size": size, "memory": {}}
    for way, keep in WAYS.items():
        with get_context("spawn").Pool(1) as pool:
            result["memory"][way] = pool.apply(peaks, (size, options, keep))
    model, batch = make(size, options)
    result["slots"] = len({*zip(batch.node_row.tolist(), batch.node_col.tolist(), strict=True)})
    result["differences"] = differences(model, batch)
    for mode in ("training", "scoring"):
        calls = {way: partial(step, model, batch, keep, mode == "training") for way, keep in WAYS.items()}
        result[mode] = interleaved(calls, options.budget, rounds=(3, 40), few={})
    return result


def summarise(results: Sequence[dict[str, Any]], mode: str) -> str:
    """A table of one mode: GiB and processor seconds of both ways."""
    rows = []
    for result in results:
        times: dict[str, Times] = result[mode]
        rows.append(
            {
                "hidden x vocabulary": result["size"],
                "slots": result["slots"],
                **{f"{way}, GiB": f"{result['memory'][way][mode]:.2f}" for way in WAYS},
                **{f"{way}, s": f"{median(times[way]['cpu']):.2f}" for way in WAYS},
                **compared(times, "chunks / all, time", "chunks", "all", result["differences"], digits=0),
            }
        )
    return markdown_table(rows)


def run(options: HeadOptions) -> None:
    """Measure every size and write the results."""
    torch.set_num_threads(options.threads)
    results = [measure(size, options) for size in options.sizes.split(",")]
    tables = {mode: summarise(results, mode) for mode in ("training", "scoring")}
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, tables)


def main() -> int:
    """Entry point of `python -m benchmarks.head`."""
    command = Command(__doc__ or "", lambda given: run(given.options), HeadOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
