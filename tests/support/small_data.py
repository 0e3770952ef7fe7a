"""Small datasets on disk, and the settings that make a recipe tiny."""

from __future__ import annotations

import json
import random
from pathlib import Path

TINY = [
    "global_batch_size=8",
    "tokenizer.vocab_size=300",
    "model.config.hidden_size=16",
    "model.config.intermediate_size=24",
    "model.config.num_hidden_layers=1",
    "model.config.num_attention_heads=2",
    "model.config.num_key_value_heads=2",
    "model.config.initializer_range=0.3",  # so that what a model reads changes what it writes
    "training.max_steps=3",
    "training.per_device_train_batch_size=8",
    "training.eval_steps=100",
    "training.save_steps=100",
    "training.use_cpu=true",
]
SYLLABLES = ["ba", "do", "ki", "lu", "me", "no", "ra", "su"]


def make_rows(count: int, seed: int, first_id: int = 0, negatives: int = 0) -> list[dict[str, object]]:
    """Rows of 1 to 7 documents whose names share syllables, so that their tries branch late."""
    rng = random.Random(seed)
    rows = []
    for place in range(count):
        wanted = rng.randint(1, 7) + negatives
        names: list[str] = []
        while len(names) < wanted:
            name = "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))
            names += [name] * (name not in names)
        docs = [{"docid": name} for name in names]
        row = {"query_id": f"q{first_id + place}", "query": f"query {rng.choice(SYLLABLES)}", "docs": docs}
        rows.append(row | ({"docs": docs[negatives:], "negatives": docs[:negatives]} if negatives else {}))
    return rows


def write_dataset(directory: Path, train: int = 24, test: int = 6) -> None:
    """A dataset directory of JSONL splits with a manifest."""
    directory.mkdir(parents=True)
    splits = {"train": make_rows(train, 0), "test": make_rows(test, 1, first_id=train, negatives=1)}
    for split, rows in splits.items():
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "manifest.json").write_text(json.dumps({"name": "tiny"}))
