"""From settings to prompts on disk: load, train batch by batch, export, write by every decoder, and say what came out.

A run is given up at any time and goes on when the same command is given again. In its directory: settings.json, what it
is; state/, where training stands; prompts/, a peft checkpoint a target; results.json.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stoical.common.differences import describe, differences, flat
from stoical.common.files import json_object, staged, write_whole
from stoical.runs.lock import LOCK
from stoical.soft_prompts.begin import first_prompts, spread, target_seeds
from stoical.soft_prompts.decoders import decode, numeric_difference
from stoical.soft_prompts.export import peft_writes, save_prompt
from stoical.soft_prompts.frozen import Frozen, load_frozen
from stoical.soft_prompts.gloss_model import train_gloss_model
from stoical.soft_prompts.settings import GLOSSES, SoftPromptSettings, parse_decoders
from stoical.soft_prompts.targets import encode
from stoical.soft_prompts.texts import Placed
from stoical.soft_prompts.training import PromptTraining

GLOSS_DIRECTORY = Path("runs/glosses")
RECORD, RESULTS = "settings.json", "results.json"
ROUNDING = {"float32": 0.1, "bfloat16": 2.0}  # of logits; a model that counts positions otherwise is further off
FREE = ("output", "decoders", "save_every", "recipe", "target", "targets", "model.download")  # texts have a sum


def open_model(settings: SoftPromptSettings) -> Frozen:
    """The frozen model; the one of WordNet's glosses is trained first where it is not there."""
    if settings.model.name != GLOSSES:
        return load_frozen(settings.model)
    if not (GLOSS_DIRECTORY / "config.json").is_file():
        train_gloss_model(GLOSS_DIRECTORY, settings.model.download, f"model.name={GLOSSES}")
    settings.model.name = str(GLOSS_DIRECTORY)
    print(f"model: a small one of WordNet's glosses, trained here; {GLOSS_DIRECTORY / 'README.md'} says what it is")
    return load_frozen(settings.model)


def record_of(settings: SoftPromptSettings, texts: Sequence[Placed], frozen: Frozen) -> dict[str, Any]:
    """What makes a run what it is: settings, texts, and the base model's bits."""
    joined = "\n".join(text for _, text in texts)
    return {
        "settings": asdict(settings),
        "texts_sha256": hashlib.sha256(joined.encode()).hexdigest(),
        "base_xxh3": frozen.fingerprint(),
    }


def check_record(output: Path, record: dict[str, Any]) -> None:
    """Raise `ValueError` where the directory holds a run of other settings, texts or another base model, or no run.

    Settings that change no prompt may differ.
    """
    path = output / RECORD
    if path.is_file() and "base_xxh3" in (before := json_object(path)):
        if before.get("base_xxh3") != record["base_xxh3"]:
            raise ValueError(
                f"{output} holds prompts of another base model ({flat(before).get('settings.model.name')}): its "
                "weights are not those of this one; give the model that they began with, or another output="
            )
        found = differences(before, record)
        changes = {key: pair for key, pair in found.items() if key.removeprefix("settings.") not in FREE}
        if changes:
            raise ValueError(
                f"{output} holds a run of other settings: {describe(changes)}; give those it began with, or another "
                "output="
            )
    elif output.is_dir() and any(path.name != LOCK for path in output.iterdir()):
        raise ValueError(f"output={output} holds something else than soft prompts; give another output=")


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write what the run is: from then on the directory is this run's, so after all that can be refused."""
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def carry_out(settings: SoftPromptSettings, texts: Sequence[Placed], frozen: Frozen, output: Path) -> dict[str, Any]:
    """Train, export and write; what results.json holds.

    Raises `ValueError` for texts that do not fit, and for a directory that holds another run.
    """
    started = time.process_time()
    encoded = encode(texts, frozen.tokenizer, frozen.room(settings.vectors))
    record = record_of(settings, texts, frozen)
    check_record(output, record)
    difference = measure(frozen, encoded, settings)
    write_record(output, record)
    stop_margin = max(settings.stop_margin, 2 * difference)
    say_start(frozen, len(texts), difference, stop_margin)
    batches = [encoded[begin : begin + settings.batch_size] for begin in range(0, len(encoded), settings.batch_size)]
    trainings = []
    for place, batch in enumerate(batches):
        state = output / "state" / f"{place}.pt"
        trainings.append(PromptTraining(frozen, batch, settings, stop_margin, state))
        trainings[-1].run(f"training {len(batch)} prompts ({place + 1} of {len(batches)})")
    unchanged = frozen.fingerprint() == record["base_xxh3"]
    rows = export(frozen, texts, encoded, trainings, output)
    by_decoder(frozen, settings, encoded, trainings, rows)
    results = {
        "model": settings.model.name,
        "difference": difference,
        "stop_margin": stop_margin,
        "frozen_unchanged": unchanged,
        "processor_seconds": time.process_time() - started,
        "targets": rows,
        "logs": [training.progress.log for training in trainings],
    }
    write_whole(output / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if not unchanged:
        raise AssertionError("the frozen weights have changed")
    return results


def measure(frozen: Frozen, encoded: Sequence[Sequence[int]], settings: SoftPromptSettings) -> float:
    """By how much a logit differs between the training forward and `generate`, behind the first batch's prompts.

    Raises `ValueError` where embeddings or logits are not finite, and where they differ by more than rounding explains.
    """
    some = encoded[: settings.batch_size]
    prompts = first_prompts(frozen, settings, target_seeds(settings, some))
    difference = numeric_difference(frozen, prompts, max(map(len, some)))
    if not math.isfinite(difference + spread(frozen)):
        raise ValueError(f"model.name={settings.model.name} gives numbers that are not finite; its weights are broken")
    if difference > ROUNDING[settings.model.dtype]:
        raise ValueError(
            f"model.name={settings.model.name}: the training forward and generate differ by {difference:.2g} in a "
            f"logit, more than rounding explains: {type(frozen.model).__name__} cannot be trained so; take another "
            "model"
        )
    return difference


def say_start(frozen: Frozen, count: int, difference: float, stop_margin: float) -> None:
    """What is frozen, and when a prompt counts as found."""
    size = sum(weight.numel() for weight in frozen.model.parameters())
    print(f"frozen: {frozen.model.config.name_or_path}, {size:,} parameters, {frozen.model.dtype}; {count} targets")
    print(
        f"training forward and generate differ by at most {difference:.2g} in a logit; a prompt is found when generate "
        f"writes its target and every token leads by {stop_margin:.2g}",
        flush=True,
    )


def export(
    frozen: Frozen,
    texts: Sequence[Placed],
    encoded: Sequence[Sequence[int]],
    trainings: Sequence[PromptTraining],
    output: Path,
) -> list[dict[str, Any]]:
    """Write every prompt as a peft checkpoint, have peft write with it, and return what is known of each target."""
    places = [(training.progress, row) for training in trainings for row in range(len(training.seeds))]
    rows = []
    with staged(output / "prompts") as draft:
        for number, ((known, row), (where, text), ids) in enumerate(zip(places, texts, encoded, strict=True), 1):
            name, found = f"{number:04d}", int(known.found[row])
            facts = {"target": text, "start_token": frozen.start, "eos_token": frozen.eos, "tokens": len(ids)}
            save_prompt(frozen, known.best[row], draft / name, facts)
            told = peft_writes(frozen, draft / name, len(ids))
            rows.append(
                {
                    "target": text,
                    "from": where,
                    "prompt": f"prompts/{name}",
                    "tokens": len(ids),
                    "found_at_step": None if found < 0 else found,
                    "exact": told == list(ids),
                    "written": text_of(frozen, told),
                    "right_tokens": int(known.right[row]),
                    "teacher_forced": float(known.accuracy[row]),
                    "margin": float(known.least[row]),
                }
            )
    return rows


def text_of(frozen: Frozen, tokens: Sequence[int]) -> str:
    """What tokens say, without the EOS at their end; other control tokens are shown."""
    text: str = frozen.tokenizer.decode(list(tokens[:-1] if tokens[-1:] == [frozen.eos] else tokens))
    return text


@torch.no_grad()
def by_decoder(
    frozen: Frozen,
    settings: SoftPromptSettings,
    encoded: Sequence[Sequence[int]],
    trainings: Sequence[PromptTraining],
    rows: list[dict[str, Any]],
) -> None:
    """Add to each target's row what every decoder writes, batch by batch. A trie holds the texts of a batch."""
    for name in parse_decoders(settings.decoders):
        told: list[list[int]] = []
        for training in trainings:
            own = encoded[len(told) : len(told) + len(training.seeds)]
            told += decode(frozen, name, training.progress.best, own)
        for row, ids, words in zip(rows, encoded, told, strict=True):
            words = words[: len(ids)]  # the longest text of the batch set the number of steps
            row.setdefault("decoders", {})[name] = {"exact": words == list(ids), "written": text_of(frozen, words)}
