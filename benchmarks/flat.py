"""One flat row of tokens against the padded rectangle: a training step and an evaluation, on batches as runs have them.

    python -m benchmarks.flat
    python -m benchmarks.flat settings=quickstart budget=60

Micro-batches of WordNet's training split and of its test split as `wordnet_alpha2` and `wordnet_ntp` make them with the
overlay `small`, on the overlay's model. A step is forward and backward. Both ways are checked to give the same
log-probabilities and gradients.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import data_prep.wordnet.hypernyms
from benchmarks.measure import Times, compared, interleaved, markdown_table, write_results
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.config.loading import load_recipe
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.forward import _one_sequence, node_logprobs
from stoical.objectives.objective import weighted_nll
from stoical.training.build import build_trainer

COMMAND = "python -m benchmarks.flat"
SETTINGS = {  # subtree, recipe, queries a micro-batch
    "quickstart": ("mammal.n.01", "wordnet_alpha2,small,quickstart", 32),
    "wordnet, batches of 8": (None, "wordnet_alpha2,small", 8),
    "wordnet, batches of 64": (None, "wordnet_ntp,small", 64),
}


@dataclass
class FlatOptions:
    """What the user can set; `--help` prints it."""

    settings: str = option(",".join(name.replace(", ", " ") for name in SETTINGS), "which settings to time")
    batches: int = option(6, "micro-batches a round")
    threads: int = option(1, "torch threads")
    budget: float = option(60.0, "seconds to spend on a setting, training and evaluation each; at least 3 rounds")
    out: str = option("flat", "results go to benchmarks/results/<out>.json and .md")


def rectangle(model: nn.Module, batch: PackedBatch) -> Tensor:
    """[M] log-probabilities through the rectangle: what `layout=sequence` runs where a model cannot take a flat row."""
    return _one_sequence(model, batch, hidden=False, embeddings=None, keep="logprobs").logprobs


def flat(model: nn.Module, batch: PackedBatch) -> Tensor:
    """[M] log-probabilities by the library."""
    return node_logprobs(model, batch).logprobs


WAYS = {"rectangle": rectangle, "flat": flat}


def gradient(model: nn.Module, batch: PackedBatch, way: Callable[[nn.Module, PackedBatch], Tensor]) -> Tensor:
    """All parameters' gradients, one after another."""
    model.zero_grad()
    weighted_nll(way(model, batch), batch.node_weights).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def differences(model: nn.Module, batch: PackedBatch) -> dict[str, float]:
    """The two ways' largest difference in nats, and that of gradients, relative to their norm."""
    with torch.no_grad():
        one, other = (way(model, batch) for way in WAYS.values())
    expected, found = (gradient(model, batch, way) for way in WAYS.values())
    return {
        "nats": float((one - other).abs().max()),
        "gradients": float((found - expected).norm() / expected.norm()),
    }


def real(batches: Sequence[PackedBatch]) -> float:
    """Share of the rectangles' places that hold tokens."""
    return sum(batch.num_tokens for batch in batches) / sum(batch.input_ids.numel() for batch in batches)


def test_batches(trainer: Any) -> Iterator[PackedBatch]:
    """Batches of the test split, as evaluation packs them."""
    evaluator = trainer.evaluator
    for start in range(0, len(evaluator.dataset), evaluator.batch_size):
        queries = [evaluator.dataset[place] for place in range(start, start + evaluator.batch_size)]
        yield evaluator.collator(queries)["batch"]


def time_setting(name: str, options: FlatOptions, directory: str) -> dict[str, Any]:
    """Times of one setting, both ways, and how much of the rectangle is real."""
    subtree, recipe, size = SETTINGS[name]
    data = f"{directory}/{subtree or 'wordnet'}"
    making = data_prep.wordnet.hypernyms
    making.build(making.WordNetOptions(out=data, **({"subtree": subtree, "test_size": 200} if subtree else {})))
    words = [f"recipe={recipe}", f"data.path={data}", f"output={directory}/run", f"global_batch_size={size}"]
    words += [f"training.per_device_train_batch_size={size}", "training.max_steps=1"]
    trainer = build_trainer(load_recipe(*words))
    model, loader = trainer.model, trainer.get_train_dataloader()
    assert model is not None
    training = [sample["batch"].to("cpu") for sample in islice(loader, options.batches)]
    testing = list(islice(test_batches(trainer), options.batches))
    model.cpu().train()

    def train(way: Callable[[nn.Module, PackedBatch], Tensor]) -> None:
        for batch in training:
            model.zero_grad(set_to_none=True)
            weighted_nll(way(model, batch), batch.node_weights).backward()

    @torch.no_grad()
    def score(way: Callable[[nn.Module, PackedBatch], Tensor]) -> None:
        for batch in testing:
            way(model, batch)

    result: dict[str, Any] = {"setting": name, "differences": differences(model, training[0])}
    for mode, step, batches in (("training", train, training), ("evaluation", score, testing)):
        calls = {label: lambda way=way, step=step: step(way) for label, way in WAYS.items()}
        result[mode] = interleaved(calls, options.budget, rounds=(3, 40), few={})
        result[f"{mode}, real"] = real(batches)
    return result


def summarise(results: Sequence[dict[str, Any]], mode: str) -> str:
    """A table of one mode: processor seconds a round, and the median of the rounds' own ratios."""
    rows = []
    for result in results:
        times: dict[str, Times] = result[mode]
        rows.append(
            {
                "setting": result["setting"],
                "real tokens": f"{result[f'{mode}, real']:.0%}",
                **{f"{way}, s": f"{median(times[way]['cpu']):.3f}" for way in WAYS},
                **compared(times, "speed-up", "rectangle", "flat", result["differences"]),
            }
        )
    return markdown_table(rows)


def run(options: FlatOptions) -> None:
    """Time every setting and write the results."""
    torch.set_num_threads(options.threads)
    known = {name.replace(", ", " "): name for name in SETTINGS}
    with tempfile.TemporaryDirectory() as scratch:
        results = [time_setting(known[name], options, scratch) for name in options.settings.split(",")]
    tables = {
        f"{mode}: seconds for {options.batches} micro-batches": summarise(results, mode)
        for mode in ("training", "evaluation")
    }
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, tables)


def main() -> int:
    """Entry point of `python -m benchmarks.flat`."""
    command = Command(__doc__ or "", lambda given: run(given.options), FlatOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
