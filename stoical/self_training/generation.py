"""From a checkpoint to a file of generated rows: every process makes its share, and the rows do not depend on whose."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from stoical.build import build_encoder, build_tokenizer, load_model, pad_id
from stoical.data import RankingDataset, RankingRow, file_sha256, load_split
from stoical.packing import TokenizedQuery, TrieTargetCollator
from stoical.prompts import load_template
from stoical.provenance import git_state, package_versions
from stoical.queries import QueryEncoder
from stoical.resume import split_sha256
from stoical.self_training.drawing import row_draws
from stoical.self_training.generated import ROWS_FILE, write_generated
from stoical.self_training.mixing import mix
from stoical.self_training.settings import SelfTrainingSettings
from stoical.self_training.trie_walks import ExpertTrie
from stoical.settings import Recipe

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pick:
    """A row to generate from: its place among the generated ones and in the split, and the shuffle of its documents."""

    place: int
    index: int
    epoch: int
    row: RankingRow
    query: TokenizedQuery


@dataclass(frozen=True, slots=True)
class Job:
    """What all rows of one generation share. recipe: that of the training to come, which starts at the checkpoint."""

    recipe: Recipe
    settings: SelfTrainingSettings
    iteration: int
    encoder: QueryEncoder
    collator: TrieTargetCollator


def picked_rows(count: int, share: float, seed: int) -> list[int]:
    """`share` times `count` places of the split, each as often as the others but for a random rest."""
    rounds, rest = divmod(max(1, round(share * count)), count)
    return [*list(range(count)) * rounds, *sorted(random.Random(seed).sample(range(count), rest))]


def made_from(recipe: Recipe, settings: SelfTrainingSettings, iteration: int, checkpoint: Path) -> dict[str, Any]:
    """All that the generated rows depend on, as JSON holds it."""
    method = settings.method
    return {
        "method": method,
        "settings": dataclasses.asdict(getattr(settings, method)),
        "share": settings.share,
        "iteration": iteration,
        "seed": recipe.seed,
        "weights_sha256": weights_sha256(checkpoint),
        "train_sha256": split_sha256(recipe.data.path, "train"),
        "template_sha256": hashlib.sha256(repr(load_template(recipe.prompt.template)).encode()).hexdigest(),
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
    job = Job(recipe, settings, facts["iteration"], build_encoder(recipe, tokenizer), collator)
    chosen = list(enumerate(picked_rows(len(train), settings.share, recipe.seed)))
    model = load_model(recipe, tokenizer).to(state.device).eval()

    def picks(share: Sequence[tuple[int, int]]) -> Iterator[Pick]:
        for place, index in share:
            row, epoch = train[index], -1 - place // len(train)  # no epoch of the training has a negative number
            yield Pick(place, index, epoch, row, job.encoder.encode(row, epoch))

    mine, size = chosen[state.process_index :: state.num_processes], recipe.eval.batch_size
    shown = state.is_main_process and sys.stderr.isatty()
    precision = torch.autocast(state.device.type, torch.bfloat16, enabled=bool(recipe.training.get("bf16")))
    records: list[Record] = []
    with precision:
        for start in tqdm(range(0, len(mine), size), desc="generating", unit="batch", disable=not shown):
            records += bash_records(job, model, list(picks(mine[start : start + size])))
    everyone = records if state.num_processes == 1 else gather_object(records)
    everyone.sort(key=lambda record: record["place"])
    counts = bash_counts(everyone)
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
        write_generated(Path(str(recipe.output)), everyone, provenance)
        print(f"generated {Path(str(recipe.output)) / ROWS_FILE} in {provenance['seconds']} s: {_said(counts)}")
    state.wait_for_everyone()


def _check_choice(settings: SelfTrainingSettings, train: RankingDataset) -> None:
    """Raise `ValueError` where tokens are to come from tries that hold one docID each: all would be gold."""
    constrained = settings.bash is not None and settings.bash.source == "constrained"
    if constrained and not any(len(row.docs) > 1 for row in train):
        raise ValueError(
            f"self_training.{settings.method}.source=constrained has no effect on {train.name}, where every row has "
            "one document; use the overlay bash_literal (source=free)"
        )


def bash_records(job: Job, model: nn.Module, picks: Sequence[Pick]) -> list[Record]:
    """One record a pick: the mixed tokens that it is to be trained on."""
    settings = job.settings.bash
    assert settings is not None
    queries = [pick.query for pick in picks]
    draws = [
        row_draws(
            job.recipe.seed, job.iteration, pick.place, max(map(len, pick.query.docid_ids)), settings.beta, settings.per
        )
        for pick in picks
    ]
    batch = job.collator(queries)["batch"].to(next(model.parameters()).device)
    mixed = mix(model, batch, [ExpertTrie.of(query) for query in queries], draws, settings, job.recipe.layout)
    return [_origin(pick) | dataclasses.asdict(one) for pick, one in zip(picks, mixed, strict=True)]


def _origin(pick: Pick) -> Record:
    return {"place": pick.place, "row": pick.index, "query_id": pick.row.query_id, "epoch": pick.epoch}


def bash_counts(records: Sequence[Record]) -> dict[str, float]:
    """Rows and tokens, and shares: of tokens that are the model's own and that differ, of rows that differ or leave."""
    tokens = sum(len(record["tokens"]) for record in records)
    return {
        "rows": len(records),
        "tokens": tokens,
        "own_tokens": sum(sum(record["own"]) for record in records) / tokens,
        "changed_tokens": sum(sum(record["changed"]) for record in records) / tokens,
        "changed_rows": sum(any(record["changed"]) for record in records) / len(records),
        "off_trie_rows": sum(record["off_trie"] for record in records) / len(records),
    }


def _said(counts: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in counts.items())
