"""SPIN (self-play fine-tuning, Chen et al. 2024, arXiv 2401.01335): DPO against the model's own outputs, in iterations.

  accelerate launch -m stoical.spin checkpoint=RUN output=DIR [spin.iterations=3] [key=value ...]

Iteration k starts from the model p_k, the checkpoint at first, and p_k is its reference. p_k writes an output y' for
every prompt of the training split, sampled over the whole vocabulary; the pairs are (the first document, y'), but for
those where y' is right. Iteration k trains on the pairs of iterations k - 1 and k. For rankings, and for plain text: a
row with one document.

spin.temperature=0 writes greedily; spin.max_new_tokens ends an output without EOS; spin.num_queries takes a sample of
the queries, another one each iteration; spin.beta is 0.1. training.* is that of one iteration; as the authors' own
configuration for 7 billion weights: RMSprop at 5e-7, 10% warm-up, linear decay, 3 epochs. Small models want more. Other
settings are as with stoical.dpo.

output/iteration-K, from 1, is the run of iteration K, with its pairs (pairs.parquet) and where they are from
(pairs.json); evaluate.py checkpoint=DIR takes the last one. resume=auto goes on where a stopped command was.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from transformers.trainer import TRAINER_STATE_NAME

from stoical.arguments import micro_batches
from stoical.cli import run
from stoical.dpo import METHOD, check_beta
from stoical.model_card import Method
from stoical.preference_job import Start, load_job
from stoical.preference_run import described, differences, keep_pairs, kept_pairs, made_from, make_pairs, train_on_pairs
from stoical.preferences import PairSettings
from stoical.resume import describe, flat, resume_from
from stoical.run_dir import check_writable
from stoical.saving import last_checkpoint, write_whole
from stoical.settings import Recipe

TRAINING: dict[str, Any] = {  # the authors' configs/config.yaml (github.com/uclaml/SPIN)
    "optim": "rmsprop",
    "learning_rate": 5e-7,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,  # below 1: a share of the iteration
    "max_steps": -1,
    "num_train_epochs": 3,
    "logging_steps": 10,
    "eval_steps": 500,
    "save_steps": 500,
    "save_total_limit": 1,
}
SPIN = Method("[self-play fine-tuning](https://arxiv.org/abs/2401.01335)", METHOD.loss)
SETTINGS_FILE = "spin.json"


@dataclass
class SpinSettings:
    """iterations: how many; beta: how much departing from the last iteration's model costs; else see `PairSettings`."""

    iterations: int = 3
    beta: float = 0.1
    temperature: float = 1.0
    max_new_tokens: int = 64
    num_queries: int | None = None

    def check(self) -> None:
        """Raise `ValueError` for values out of range."""
        if self.iterations < 1:
            raise ValueError(f"spin.iterations={self.iterations} must be at least 1")
        check_beta("spin", self.beta)
        self.outputs().check("spin", [])

    def outputs(self) -> PairSettings:
        """How an iteration's pairs are made."""
        return PairSettings(
            "free",
            num_queries=self.num_queries,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )


def main(arguments: Sequence[str]) -> None:
    """The command line of the module's docstring."""
    start, recipe, settings, _ = load_job(arguments, "spin", SpinSettings, TRAINING)
    settings.check()
    if recipe.training.get("save_strategy", "steps") != "steps":
        raise ValueError("training.save_strategy is not for this command to take: iterations go on from the last step")
    output = Path(str(recipe.output))
    check_writable(output)
    micro_batches(recipe)  # also joins the processes
    _begin(recipe, start, settings)
    for iteration in range(1, settings.iterations + 1):
        after = _iterate(recipe, start, settings, iteration)
        if after is None:
            return
        start = after
    _say(f"{settings.iterations} iterations are done; evaluate with: python evaluate.py checkpoint={output}")


def _begin(recipe: Recipe, start: Start, settings: SpinSettings) -> None:
    """Note what this run is. Raises `ValueError` where the directory holds another, or this one without resume=auto."""
    output = Path(str(recipe.output))
    path = output / SETTINGS_FILE
    if recipe.resume not in (None, "auto"):
        raise ValueError(f"resume={recipe.resume}: this command takes resume=auto, which goes on where it was stopped")
    now = {"checkpoint_sha256": start.sha256(), "spin": asdict(replace(settings, iterations=0))}  # more may be added
    if not path.is_file() and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"output={output} holds something else; give another directory")
    if path.is_file():
        if recipe.resume is None:
            raise ValueError(f"{output} already holds a run; set resume=auto to continue it, or output=")
        before, own = flat(json.loads(path.read_text())), flat(now)
        changes = {key: (before.get(key), own.get(key)) for key in before | own if before.get(key) != own.get(key)}
        if changes:
            raise ValueError(f"{output} was started with other settings: {describe(changes)}; set another output=")
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(now, indent=2) + "\n")


def _iterate(recipe: Recipe, start: Start, settings: SpinSettings, iteration: int) -> Start | None:
    """The model after one iteration, trained now or before. None where `start` writes nothing but right outputs."""
    folder = Path(str(recipe.output)) / f"iteration-{iteration}"
    own = _recipe_of(recipe, start, folder)
    checkpoint = resume_from(own)
    if checkpoint is None or not _is_last(checkpoint):
        pairs, record = _pairs(own, start, settings, iteration)
        _say(f"iteration {iteration}: {described(record['counts'])}")
        if not len(pairs):
            _say(f"every output is right: there is nothing left to learn after {iteration - 1} iterations")
            return None
        earlier = kept_pairs(folder.with_name(f"iteration-{iteration - 1}"))
        both = concatenate_datasets([earlier[0], pairs]) if earlier else pairs
        train_on_pairs(own, start, settings.beta, both, SPIN, record, checkpoint)
        gc.collect()  # a trainer and its two models are a cycle of references
    last = last_checkpoint(folder)
    assert last is not None
    return Start(last, start.adapter)


def _recipe_of(recipe: Recipe, start: Start, folder: Path) -> Recipe:
    """The recipe of the iteration that goes on from `start`; what is below an adapter stays the same."""
    model = recipe.model if start.adapter else replace(recipe.model, name=str(start.checkpoint))
    return replace(recipe, output=str(folder), model=model)


def _is_last(checkpoint: Path) -> bool:
    """Was this saved after the last step of its iteration?"""
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    return bool(state["global_step"] >= state["max_steps"])


def _pairs(recipe: Recipe, start: Start, settings: SpinSettings, iteration: int) -> tuple[Dataset, dict[str, Any]]:
    """The iteration's own pairs: those that a stopped command kept, if they would be made again alike, or new ones."""
    folder, outputs, epoch = Path(str(recipe.output)), settings.outputs(), iteration - 1
    kept = kept_pairs(folder)
    if kept is not None and not differences(kept[1], made_from(recipe, start, outputs, epoch)):
        return kept
    pairs, record = make_pairs(recipe, start, outputs, epoch)
    keep_pairs(pairs, record, folder)
    return pairs, record


def _say(text: str) -> None:
    if PartialState().is_main_process:
        print(text, flush=True)


if __name__ == "__main__":
    run(main, __doc__ or "", recipes=False)
