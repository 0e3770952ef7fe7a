"""`python -m examples.esci_small`: three losses on ESCI, on a small model from scratch, beside Table 2's direction.

Wants data/esci (stoical prepare esci). Trains next-token prediction, trie targets (beta = 2) and a target at every
node on as many input tokens each, for three seeds, and prints one table, with baselines that do not read the query.
About half an hour on one quiet core; an interrupted run goes on where it stopped when the command is given again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.quickstart import step
from examples.side_by_side import spread
from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.config.loading import load_recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenization import pad_id
from stoical.evaluation.judged import JudgedQuery
from stoical.evaluation.metrics import mean_metrics, metrics_among, query_metrics
from stoical.reporting.tables import header, markdown

ROOT = Path("runs/esci_small")
SEEDS = (0, 1, 2)
STEPS = {"esci_ntp": 1800, "esci_beta2": 1800, "esci_every_node": 1206}  # as many input tokens each
TIE_BREAK = 1e-6


def main() -> None:
    """Train and evaluate what is missing, and report."""
    names = {recipe: f"recipe={recipe},small,esci_small" for recipe in STEPS}
    for seed in SEEDS:
        for recipe, steps in STEPS.items():
            output = ROOT / f"{recipe}-{seed}"
            settings = (names[recipe], f"seed={seed}", f"training.max_steps={steps}", f"output={output}")
            step(f"train {recipe}, seed {seed}", "train.py", *settings, "resume=auto")
            step("evaluate it", "evaluate.py", f"checkpoint={output}")
        output = ROOT / f"untrained-{seed}"
        step("evaluate the untrained model", "evaluate.py", names["esci_ntp"], f"seed={seed}", f"output={output}")
    for recipe, steps in STEPS.items():
        print(f"{recipe}: {steps:,} steps, {input_tokens(names[recipe], steps):,.0f} input tokens")
    print(f"\nTest split, % (mean ± standard deviation over {len(SEEDS)} seeds):\n\n{table()}")


def input_tokens(recipe_name: str, steps: int) -> float:
    """The tokens that a model reads in these steps, prompts and trie nodes, without padding; forward passes only."""
    recipe = load_recipe(recipe_name)
    train = load_split(recipe.data.path, "train")
    tokenizer = build_tokenizer(recipe, train)
    dataset = EncodedDataset(train, build_encoder(recipe, tokenizer))
    collate = TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune=True)
    of_epoch = sum(collate([dataset[index]])["batch"].input_ids.numel() for index in range(len(dataset)))
    epochs, rest = divmod(steps, -(-len(dataset) // recipe.global_batch_size))
    return of_epoch * (epochs + rest * recipe.global_batch_size / len(dataset))


def table() -> str:
    """Baselines and runs, a row each."""
    ks = load_recipe("recipe=esci_ntp").eval.recall_at
    train, test = load_split("data/esci", "train"), load_split("data/esci", "test")
    tops = defaultdict(float, {docid: 1.0 * count for docid, count in top_counts(train).items()})
    places = defaultdict(lambda: 0.5, mean_places(train))
    rows = {
        "any order": [baseline(test, defaultdict(float), ks, seed) for seed in SEEDS],
        "how often a docID is the top one": [baseline(test, tops, ks, seed) for seed in SEEDS],
        "a docID's mean place": [baseline(test, places, ks, seed) for seed in SEEDS],
    }
    for name in ("untrained", *STEPS):
        rows[name] = [json.loads((ROOT / f"{name}-{seed}" / "eval/metrics.json").read_text()) for seed in SEEDS]
    columns = metrics_among(rows["any order"][0], "tables")
    body = [
        [name, *(spread([found[column.name] for found in runs], ".1f", 100) for column in columns)]
        for name, runs in rows.items()
    ]
    return markdown([header(columns)[:-1], *body])


def top_counts(rows: RankingDataset) -> Mapping[str, int]:
    """How many queries have the docID on top."""
    counts: dict[str, int] = defaultdict(int)
    for index in range(len(rows)):
        counts[rows[index].docs[0].docid] += 1
    return counts


def mean_places(rows: RankingDataset) -> Mapping[str, float]:
    """The docID's mean place over the lists it is in, from 1 (top) to 0 (last), with one more at 0.5."""
    places: dict[str, list[float]] = defaultdict(lambda: [0.5])
    for index in range(len(rows)):
        docs = rows[index].docs
        for place, doc in enumerate(docs):
            places[doc.docid].append(1 - place / max(1, len(docs) - 1))
    return {docid: float(np.mean(found)) for docid, found in places.items()}


def baseline(rows: RankingDataset, score: Mapping[str, float], ks: Sequence[int], seed: int) -> dict[str, float]:
    """The metrics of ranking every list by `score`, with ties at random."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(len(rows)):
        docs = rows[index].docs
        scores = np.array([score[doc.docid] for doc in docs]) + TIE_BREAK * random.random(len(docs))
        found.append(query_metrics(JudgedQuery(scores, np.arange(1, len(docs) + 1), 0), ks))
    return mean_metrics(found)


if __name__ == "__main__":
    main()
