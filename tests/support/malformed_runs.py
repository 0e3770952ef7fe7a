"""Malformed inputs of the commands that train, write models, learn docIDs or draw, made as those of `malformed`."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.docids import ItemOptions
from data_prep.esci.options import EsciOptions
from stoical.commands.dpo import DPOOptions
from stoical.commands.spin import SpinOptions
from stoical.common.options import keys_of
from stoical.config.recipe import Recipe
from tests.support.commands import run
from tests.support.esci_tables import examples, joined, products, write
from tests.support.malformed import VALUES, Case, damaged, spoiled
from tests.support.small_data import TINY

if TYPE_CHECKING:
    from tests.support.malformed import Maker

RECIPE = ["recipe=wordnet_alpha2,small", *TINY]
BASH = [
    "recipe=wordnet_beta2,small,bash",
    *(word for word in TINY if "steps" not in word),
    *("training.max_steps=1", "training.save_steps=1", "self_training.iterations=1"),
]
OUTSIDE = (
    "checkpoint",
    "out",
    "output",
    "texts",
    "source",
    "embedder",
    "embedder_revision",
    "device",
)  # no other place
SETTINGS = {
    "dpo": [key.name for key in keys_of(DPOOptions) if key.name not in OUTSIDE],
    "spin": [key.name for key in keys_of(SpinOptions) if key.name not in OUTSIDE],
    "self-train": [key.name for key in keys_of(Recipe) if key.name.startswith("self_training.")],
    "docids": [key.name for key in keys_of(ItemOptions) if key.name not in OUTSIDE],
    "esci": [key.name for key in keys_of(EsciOptions) if key.name not in OUTSIDE],
}
SHOP = [
    f"{place},{color} {thing}"
    for place, (color, thing) in enumerate(
        (color, thing) for color in ("red", "blue", "green") for thing in ("hose", "lamp", "shoe", "table")
    )
]


def spoiled_checkpoint(maker: Maker, rng: random.Random, own: Path) -> tuple[Path, bool]:
    """A checkpoint that its sums say is damaged, or one without sums that is cut short; whether it must be refused."""
    return maker.damaged_checkpoint(rng, own) if rng.random() < 0.5 else (maker.truncated_checkpoint(rng, own), True)


def preferences(maker: Maker, rng: random.Random, own: Path) -> Case:
    """DPO or SPIN from a spoiled checkpoint, or with a setting of another kind."""
    command = rng.choice(["dpo", "spin"])
    words = [f"output={own / 'out'}", "training.max_steps=1"]
    if rng.random() < 0.5:
        copy, wrong = spoiled_checkpoint(maker, rng, own)
        return Case(command, (command, f"checkpoint={copy}", *words), wrong)
    key = rng.choice(SETTINGS[command])
    words += ["dpo.source=ranking"] * (command == "dpo" and key != "dpo.source")
    words += ["spin.max_new_tokens=3"] * (command == "spin" and key != "spin.max_new_tokens")
    words += ["spin.iterations=1"] * (command == "spin" and key != "spin.iterations")
    return Case(command, (command, f"checkpoint={maker.folder / 'run'}", *words, f"{key}={rng.choice(VALUES)}"), False)


def self_train(maker: Maker, rng: random.Random, own: Path) -> Case:
    """A setting of another kind, damaged data, or a run to resume of which a file is damaged."""
    words = [*BASH, f"data.path={maker.folder / 'data'}", f"output={own / 'run'}"]
    how = rng.randrange(3)
    if how == 0:
        key = rng.choice(SETTINGS["self-train"])
        kept = [word for word in words if not word.startswith(f"{key}=")]
        return Case("self-train", ("self-train", *kept, f"{key}={rng.choice(VALUES)}"), False)
    if how == 1:
        data = maker.damaged_data(rng, own)
        return Case("self-train", ("self-train", *BASH, f"data.path={data}", f"output={own / 'run'}"), False)
    done = maker.folder / "self-trained"
    if not done.exists():
        assert run("self-train", *BASH, f"data.path={maker.folder / 'data'}", f"output={done}") == 0
    shutil.copytree(done, own / "run")
    path = rng.choice(sorted(path for path in (own / "run").rglob("*") if path.is_file() and path.name != "README.md"))
    path.write_bytes(damaged(path.read_bytes(), rng))
    return Case("self-train", ("self-train", *words, "resume=auto"), False)


def export(maker: Maker, rng: random.Random, own: Path) -> Case:
    """A spoiled checkpoint to be exported, or a type that is none."""
    if rng.random() < 0.2:
        words = (f"checkpoint={maker.folder / 'run'}", f"output={own / 'out'}", f"dtype={rng.choice(VALUES)}")
        return Case("export", ("export", *words), True)
    copy, wrong = spoiled_checkpoint(maker, rng, own)
    return Case("export", ("export", f"checkpoint={copy}", f"output={own / 'out'}"), wrong)


def draw_trie(maker: Maker, rng: random.Random, own: Path) -> Case:
    """A query that is not there, damaged data, or a setting of another kind."""
    words = [*RECIPE, f"output={own / 'out'}"]
    how = rng.randrange(3)
    data = maker.damaged_data(rng, own) if how == 0 else maker.folder / "data"
    if how == 1:
        words.append(f"query={rng.choice(VALUES)}")
    elif how == 2:
        words.append(f"{rng.choice(['prompt.template', 'loss.alpha', 'loss.item'])}={rng.choice(VALUES)}")
    return Case("draw-trie", ("draw-trie", *words, f"data.path={data}"), False)


def histograms(maker: Maker, rng: random.Random, own: Path) -> Case:
    """A recipe that is not there, damaged data, or a setting of another kind."""
    words = ["tokenizer.name=bpe", "tokenizer.vocab_size=300", f"output={own / 'out'}"]
    how = rng.randrange(3)
    data = maker.damaged_data(rng, own) if how == 0 else maker.folder / "data"
    words.append(f"recipes={rng.choice(VALUES) if how == 1 else 'wordnet_ntp'}")
    if how == 2:
        words.append(f"{rng.choice(['prompt.template', 'prompt.max_length', 'seed'])}={rng.choice(VALUES)}")
    return Case("histograms", ("histograms", *words, f"data.path={data}"), False)


def items(maker: Maker, rng: random.Random, own: Path) -> Case:
    """A damaged table of items, or an option of another kind."""
    text = "\n".join(["id,title", *SHOP]).encode()
    wrong = rng.random() < 0.6
    (own / "items.csv").write_bytes(damaged(text, rng) if wrong else text)
    words = {"input": f"{own / 'items.csv'}", "out": f"{own / 'out'}", "dimensions": "4", "components": "4"}
    words["nonzeros"] = "2"
    if not wrong:
        words[rng.choice(SETTINGS["docids"])] = rng.choice(VALUES)
    return Case("docids", ("prepare", "docids", *(f"{key}={value}" for key, value in words.items())), False)


def esci(maker: Maker, rng: random.Random, own: Path) -> Case:
    """Amazon's tables with damage in their bytes or values, or an option of another kind."""
    words = {"out": f"{own / 'out'}", "dimensions": "3", "rank_end": "4", "rank_step": "2", "components": "3"}
    words |= {"nonzeros": "1", "test_size": "1", "source": f"{own / 'joined.jsonl'}"}
    how = rng.randrange(3)
    if how == 0:
        records = joined()
        at = rng.randrange(len(records))
        lines = [json.dumps(spoiled(one, rng) if place == at else one) for place, one in enumerate(records)]
        (own / "joined.jsonl").write_text("\n".join(lines) + "\n")
    elif how == 1:
        for name, records in (("examples", examples()), ("products", products())):
            write(own / "esci" / f"shopping_queries_dataset_{name}.parquet", records)
        path = rng.choice(sorted((own / "esci").iterdir()))
        path.write_bytes(damaged(path.read_bytes(), rng))
        words["source"] = f"{own / 'esci'}"
    else:
        write(own / "joined.jsonl", joined())
        words[rng.choice(SETTINGS["esci"])] = rng.choice(VALUES)
    return Case("esci", ("prepare", "esci", *(f"{key}={value}" for key, value in words.items())), False)


QUICK = (preferences, export, draw_trie, items, esci)
RUNS = (*QUICK, self_train, histograms)
