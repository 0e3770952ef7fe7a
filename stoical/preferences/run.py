"""One run of preference training: make the pairs, keep them with their origin, train."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from accelerate import PartialState

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.model import load_model
from stoical.common.differences import differences
from stoical.common.files import file_sha256, json_object, write_whole, writing
from stoical.config.recipe import Recipe
from stoical.data.dataset import load_split
from stoical.data.files import split_sha256
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import load_template
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenization import pad_id
from stoical.preferences.pairs import PairMaker, as_dataset
from stoical.preferences.settings import PairSettings, settings_of
from stoical.preferences.start import Start
from stoical.runs.directory import start_run
from stoical.runs.model_card import CardMethod
from stoical.runs.processes import no_accelerator

PAIRS_FILE, PAIRS_RECORD = "pairs.parquet", "pairs.json"
PAIRS_SUM = "pairs_sha256"  # of the file, in the record


def make_pairs(
    recipe: Recipe, start: Start, settings: PairSettings, epoch: int = 0
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The pairs of the training split by the start's model, with prompts as in `epoch`, and the record of their origin.

    The same recipe, start and settings make the same pairs. Every process calls this.
    """
    if settings.source == "free" and recipe.tokenizer.terminator != "eos":
        raise ValueError("source=free needs tokenizer.terminator=eos: nothing else ends what the model writes")
    tokenizer = build_tokenizer(recipe)
    train = load_split(recipe.data.path, "train")
    if train.weighted:
        raise ValueError(f"{train.name} has rows with a 'weight', which preference pairs do not have; leave them out")
    dataset = EncodedDataset(train, build_encoder(recipe, tokenizer))
    dataset.set_epoch(epoch)
    model = load_model(recipe, tokenizer, start.checkpoint if start.adapter else None)
    device = PartialState(cpu=no_accelerator()).device
    maker = PairMaker(
        dataset=dataset,
        collator=TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune=False),
        settings=settings,
        score=recipe.eval.score,
        layout=recipe.layout,
        batch_size=recipe.eval.batch_size,
        seed=f"{recipe.seed}/{epoch}",
    )
    pairs, counts = maker(model.to(device), shown=True)
    facts = made_from(recipe, start, settings, epoch)
    record = {"checkpoint": str(start.checkpoint), **facts, "counts": counts}
    return as_dataset(pairs), record


def made_from(recipe: Recipe, start: Start, settings: PairSettings, epoch: int = 0) -> dict[str, Any]:
    """All that decides the pairs that `make_pairs` makes, for its record."""
    return {
        "checkpoint_sha256": start.sha256(),
        "data_sha256": split_sha256(recipe.data.path, "train"),
        "template": asdict(load_template(recipe.prompt.template)),
        "max_length": recipe.prompt.max_length,
        "terminator": recipe.tokenizer.terminator,
        "score": recipe.eval.score,
        "seed": recipe.seed,
        "epoch": epoch,
        "settings": settings_of(settings),
    }


def changed_origin(record: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key to (value in a record, value now), for those of `made_from` that differ."""
    return differences({name: record.get(name) for name in facts}, facts)


def keep_pairs(pairs: datasets.Dataset, record: Mapping[str, Any], directory: Path) -> None:
    """Write the pairs and, last, their record, from the main process: with the record there, the pairs are whole.

    Also where they are written once more: a kill in between leaves the old record with the old pairs, or none.
    """
    state = PartialState()
    state.wait_for_everyone()  # another process may still be reading what is there
    if state.is_main_process:
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / f"{PAIRS_FILE}.new"
        with writing(draft):
            pq.write_table(pairs.data.table, draft)
        (directory / PAIRS_RECORD).unlink(missing_ok=True)
        draft.replace(directory / PAIRS_FILE)
        kept = {**record, PAIRS_SUM: file_sha256(directory / PAIRS_FILE)}
        write_whole(directory / PAIRS_RECORD, json.dumps(kept, indent=2) + "\n")
    state.wait_for_everyone()


def kept_pairs(directory: Path) -> tuple[datasets.Dataset, dict[str, Any]] | None:
    """What `keep_pairs` wrote there, or None. Raises `ValueError` where the pairs are not as they were written."""
    path = directory / PAIRS_FILE
    if not (directory / PAIRS_RECORD).is_file():
        return None
    record = json_object(directory / PAIRS_RECORD)
    if not path.is_file() or file_sha256(path) != record.pop(PAIRS_SUM, None):
        raise ValueError(f"{path} is gone or damaged; delete {PAIRS_RECORD} beside it to have the pairs made again")
    return datasets.Dataset(pq.read_table(path)), record


def train_on_pairs(
    recipe: Recipe,
    start: Start,
    beta: float,
    pairs: datasets.Dataset,
    method: CardMethod,
    record: Mapping[str, Any],
    checkpoint: Path | None = None,
) -> int:
    """Train from `start` on the pairs, in the recipe's run directory; the number of optimizer steps.

    `checkpoint`: one of this run's own, to continue from.
    """
    from stoical.preferences.trainer import build_preference_trainer

    kept = {"beta": beta, "trl": importlib.metadata.version("trl"), **record}
    trainer = build_preference_trainer(recipe, start, beta, pairs, method, kept)
    args = trainer.args
    batches = args.per_device_train_batch_size, args.gradient_accumulation_steps
    start_run(recipe, trainer.fingerprint, checkpoint, *batches)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.share()
    return int(trainer.state.global_step)


def described(counts: Mapping[str, int]) -> str:
    """Such as "24 queries, 31 pairs, 4 right outputs"."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
