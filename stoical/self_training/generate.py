"""From a checkpoint to a file of generated rows: every process makes its share, and the rows do not depend on whose."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.model import load_model
from stoical.common.files import file_sha256
from stoical.common.progress import progress
from stoical.config.recipe import Recipe
from stoical.config.self_training import BashSettings, SelfTrainingSettings
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.files import split_sha256
from stoical.encoding.generated_rows import ROWS_FILE
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import load_template
from stoical.encoding.tokenization import pad_id
from stoical.runs.provenance import git_state, package_versions
from stoical.self_training.bash import bash_counts, bash_records
from stoical.self_training.job import Job, Pick, Record
from stoical.self_training.rac import rac_records, rac_selected
from stoical.self_training.rows_file import write_generated


def picked_rows(count: int, share: float, seed: int) -> list[int]:
    """`share` times `count` places of the split, each as often as the others but for a random rest."""
    rounds, rest = divmod(max(1, round(share * count)), count)
    return [*list(range(count)) * rounds, *sorted(random.Random(seed).sample(range(count), rest))]


def made_from(recipe: Recipe, settings: SelfTrainingSettings, iteration: int, checkpoint: Path) -> dict[str, Any]:
    """All that the generated rows depend on, as JSON holds it."""
    method, template = settings.method, dataclasses.astuple(load_template(recipe.prompt.template))
    return {
        "method": method,
        "settings": dataclasses.asdict(getattr(settings, method)),
        "share": settings.share,
        "iteration": iteration,
        "seed": recipe.seed,
        "weights_sha256": weights_sha256(checkpoint),
        "train_sha256": split_sha256(recipe.data.path, "train"),
        "template_sha256": hashlib.sha256(repr(template).encode()).hexdigest(),
        "max_length": recipe.prompt.max_length,
        "count_terminator": recipe.tokenizer.count_terminator,
    }


def weights_sha256(checkpoint: Path) -> str:
    """The SHA-256 of a checkpoint's weights: of the names and sums of its safetensors files."""
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{checkpoint} holds no weights (*.safetensors)")
    return hashlib.sha256("".join(f"{file_sha256(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def generate(recipe: Recipe, settings: SelfTrainingSettings, facts: dict[str, Any], checkpoint: Path) -> None:
    """Write the rows and their provenance (`facts` is `made_from`'s) into the recipe's run directory.

    Every process calls this, and has the whole model. Raises `ValueError` where nothing comes out to train on.
    """
    state, started = PartialState(), time.perf_counter()
    train, tokenizer = load_split(recipe.data.path, "train"), build_tokenizer(recipe)
    _check_choice(settings, train)
    collator = TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune=False)
    chosen = list(enumerate(picked_rows(len(train), settings.share, recipe.seed)))
    adapter = None if recipe.model.adapter is None else Path(recipe.model.adapter)
    model = load_model(recipe, tokenizer, adapter).to(state.device).eval()
    job = Job(recipe, facts["iteration"], build_encoder(recipe, tokenizer), collator, model)

    def picks(share: Sequence[tuple[int, int]]) -> Iterator[Pick]:
        for place, index in share:
            row, epoch = train[index], -1 - place // len(train)  # no epoch of the training has a negative number
            yield Pick(place, index, epoch, row, job.encoder.encode(row, epoch))

    mine, size = chosen[state.process_index :: state.num_processes], recipe.eval.batch_size
    precision = torch.autocast(state.device.type, torch.bfloat16, enabled=bool(recipe.training.get("bf16")))
    records: list[Record] = []
    with precision:
        for start in progress(range(0, len(mine), size), "generating, batches", shown=state.is_main_process):
            records += _records(job, settings, list(picks(mine[start : start + size])))
    everyone = records if state.num_processes == 1 else gather_object(records)
    everyone.sort(key=lambda record: record["place"])
    kept, counts = _selected(settings, everyone, recipe.seed)
    if not kept:
        raise ValueError(
            f"self_training.{settings.method} made no row to train on in iteration {job.iteration}: {_said(counts)}. "
            "Set self_training.iterations to end before it, or temperature, keep_right or max_tokens to get other rows"
        )
    if state.is_main_process:
        provenance = {
            "made_from": facts,
            "checkpoint": str(checkpoint),
            "counts": counts,
            "seconds": round(time.perf_counter() - started, 1),
            "processes": state.num_processes,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "packages": package_versions(),
            "git": git_state(),
        }
        write_generated(Path(str(recipe.output)), kept, provenance)
        print(f"generated {Path(str(recipe.output)) / ROWS_FILE} in {provenance['seconds']} s: {_said(counts)}")
    state.wait_for_everyone()


def _records(job: Job, settings: SelfTrainingSettings, picks: Sequence[Pick]) -> list[Record]:
    if settings.bash is not None:
        return bash_records(job, settings.bash, picks)
    assert settings.rac is not None
    return rac_records(job, settings.rac, picks)


def _selected(
    settings: SelfTrainingSettings, records: list[Record], seed: int
) -> tuple[list[Record], dict[str, float]]:
    """The rows to train on, and the counts that the provenance holds."""
    if settings.rac is None:
        return records, bash_counts(records)
    return rac_selected(records, settings.rac, seed)


def _check_choice(settings: SelfTrainingSettings, train: RankingDataset) -> None:
    """Raise `ValueError` where tokens are to come from tries that hold one docID each: all would be gold."""
    source = (settings.bash or settings.rac or BashSettings()).source
    if source == "constrained" and not any(len(row.docs) > 1 for row in train):
        raise ValueError(
            f"self_training.{settings.method}.source=constrained has no effect on {train.name}, where every row has "
            "one document; use the overlay bash_literal or rac_text (source=free)"
        )


def _said(counts: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in counts.items())
