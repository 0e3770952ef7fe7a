"""`python -m examples.figure4`: dual and cross encoders beside a generative ranker, on the mammals of WordNet.

Figure 4 of the SToICaL paper in small: three seeds of every setting, one table, one figure. Two data sets with the same
test queries: in data/mammal these are held out, in data/mammal_seen they are trained on too, without which a lookup
table has nothing to say of most of them. The encoders take 7 minutes of one core; generative=false leaves out the
language models (another half hour), of which those that are there are shown all the same. What is there is not made
again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from data_prep.wordnet import hypernyms
from examples.side_by_side import spread
from stoical.commands import evaluate, train
from stoical.evaluation.metrics import metrics_among
from stoical.reporting.recall_curves import plot_recall
from stoical.reporting.tables import header, markdown

ROOT = Path("runs/figure4")
SEEDS = (0, 1, 2)
CUTOFFS = range(1, 11)
SEEN, HELD_OUT = "mammal_seen", "mammal"
STEPS = {"dual": 1000, "cross": 1500}
ENCODERS = {  # label -> recipe, data
    **{f"DE, n = {n}, α = 2": (f"dual_encoder_{n},alpha2", SEEN) for n in (4, 8, 16, 32)},
    "DE, n = 32, α = 0": ("dual_encoder_32", SEEN),
    **{f"DE, n = 32, α = {a}": (f"dual_encoder_32,alpha{a}", SEEN) for a in (1, 3)},
    "CE, α = 0": ("cross_encoder", SEEN),
    **{f"CE, α = {a}": (f"cross_encoder,alpha{a}", SEEN) for a in (1, 2, 3)},
    "DE, n = 32, α = 2, held out": ("dual_encoder_32,alpha2", HELD_OUT),
    "CE, α = 2, held out": ("cross_encoder,alpha2", HELD_OUT),
}
GENERATIVE = {  # the models of the quickstart
    "generative, NTP, held out": ("wordnet_ntp,small,quickstart", HELD_OUT),
    "generative, 1/r², held out": ("wordnet_alpha2,small,quickstart", HELD_OUT),
}
RUNS = ENCODERS | GENERATIVE


def main(arguments: list[str]) -> None:
    """Make the data and the runs that are missing, and report."""
    if arguments not in ([], ["generative=false"]):
        raise SystemExit(f"usage: python -m examples.figure4 [generative=false], got {' '.join(arguments)}")
    for name, held_out in ((SEEN, False), (HELD_OUT, True)):
        options = {"subtree": "mammal.n.01", "test_size": 200, "held_out": held_out}
        if not Path("data", name).is_dir():
            hypernyms.build(hypernyms.WordNetOptions(out=f"data/{name}", **options))
    for seed in SEEDS:
        for label in ENCODERS if arguments else RUNS:
            make(label, seed)
    plot(ROOT / "figure4.png")
    print(f"Test split of mammal.n.01, % (mean ± standard deviation over the seeds that are there):\n\n{table()}\n")
    print(f"figure: {ROOT / 'figure4.png'}")


def plot(output: Path) -> None:
    """The figure of the runs that are there."""
    panels = {
        "(a) by model (α = 2)": {
            **_there("generative, 1/r², held out", "CE, α = 2"),
            **_there(*(f"DE, n = {n}, α = 2" for n in (32, 16, 8, 4))),
        },
        "(b) DE, n = 32, by α": _there(*(f"DE, n = 32, α = {a}" for a in range(4))),
        "(c) CE by α": _there(*(f"CE, α = {a}" for a in range(4))),
    }
    plot_recall({title: groups for title, groups in panels.items() if groups}, CUTOFFS, output)


def directory(label: str, seed: int) -> Path:
    """Where a run is."""
    recipe, data = RUNS[label]
    return ROOT / data / f"{recipe.replace(',', '-')}-{seed}"


def make(label: str, seed: int) -> None:
    """Train and evaluate one run, unless that was done."""
    (recipe, data), output = RUNS[label], directory(label, seed)
    if (output / "eval" / "metrics.json").is_file():
        return
    print(f"==> {label}, seed {seed}", flush=True)
    words = [f"recipe={recipe}", f"seed={seed}", f"output={output}", "resume=auto", "training.eval_strategy=no"]
    if label in ENCODERS:
        steps = STEPS[recipe.partition("_")[0]]
        words[0] += ",encoder_small"
        words += [f"data.path=data/{data}", f"training.max_steps={steps}", "training.logging_steps=500"]
    train.main(words)
    evaluate.main([f"checkpoint={output}"])


def _there(*labels: str) -> dict[str, list[Path]]:
    """Labels to the directories of their evaluated runs, where there are any."""
    found = {label: list(_evaluated(label)) for label in labels}
    return {label: runs for label, runs in found.items() if runs}


def _evaluated(label: str) -> Iterator[Path]:
    runs = (directory(label, seed) for seed in SEEDS)
    return (run for run in runs if (run / "eval" / "metrics.json").is_file())


def table() -> str:
    """A row a setting: mean and standard deviation over its seeds, and how many these are."""
    rows = {
        label: [json.loads((run / "eval" / "metrics.json").read_text()) for run in runs]
        for label, runs in _there(*RUNS).items()
    }
    names = set.intersection(*(set(found) for runs in rows.values() for found in runs))
    columns = metrics_among(names, "tables")
    body = [
        [label, *(spread([found[column.name] for found in runs], ".1f", 100) for column in columns), str(len(runs))]
        for label, runs in rows.items()
    ]
    return markdown([["run", *header(columns)[1:-1], "seeds"], *body])


if __name__ == "__main__":
    main(sys.argv[1:])
