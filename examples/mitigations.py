"""`python -m examples.mitigations`: every mitigation beside teacher forcing, on the mammals of WordNet.

For each seed a small model is trained from scratch with teacher forcing, 600 steps. From its weights, teacher forcing
and each method then train on for as many steps of as many queries, and are evaluated. Prints one table; its last column
is the processor time of that second part, as a ratio to teacher forcing's in the same process. Half an hour of one core
a seed; seeds=0, seeds=1 and seeds=2 may run beside each other, and seeds=0,1,2 then prints the table of all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_prep.wordnet.hypernyms import WordNetOptions, build
from examples.side_by_side import Method, Table, fine_tuned, preferred, self_trained
from stoical.commands import dpo, spin
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.evaluation.metrics import metrics_among

DATA = Path("data/mammal")
SMALL = "small,quickstart"
TOP = f"wordnet_beta2,{SMALL}"  # teacher forcing on the top docID, trie targets
HALF = 30  # the step where half of the tokens are the model's own


def on_top(overlay: str, *settings: str) -> Method:
    """An overlay beside teacher forcing's recipe, with the overlay's own settings NAME.KEY=VALUE."""
    return fine_tuned(f"{TOP},{overlay}", *(f"mitigations.{setting}" for setting in settings))


def sampling(overlay: str, *settings: str, section: str = "scheduled_sampling") -> Method:
    """Scheduled sampling, its schedule fitted to the few steps."""
    return on_top(overlay, *(f"{section}.{setting}" for setting in (f"half_step={HALF}", *settings)))


def every_node(visits: str) -> Method:
    """A target at every node of the trie."""
    return fine_tuned(f"wordnet_every_node,{SMALL}", f"loss.visits={visits}")


REFERENCE = "teacher forcing"
METHODS = {
    REFERENCE: fine_tuned(TOP),
    "one-hot targets (next-token prediction)": fine_tuned(f"wordnet_ntp,{SMALL}"),
    "every docID, 1/r² (item level)": fine_tuned(f"wordnet_alpha2,{SMALL}"),
    "every node, mass": every_node("mass"),
    "every node, uniform": every_node("uniform"),
    "every node, reach": every_node("reach"),
    "scheduled sampling": sampling("scheduled_sampling"),
    "scheduled sampling, free": sampling("scheduled_sampling", "source=free"),
    "scheduled sampling, expected": sampling("scheduled_sampling_expected"),
    "scheduled sampling, two-pass": sampling("scheduled_sampling_parallel"),
    "scheduled sampling, literal": sampling("scheduled_sampling_literal"),
    "scheduled sampling, confidence": sampling("scheduled_sampling_confidence"),
    "scheduled sampling, soft": sampling("scheduled_sampling_soft", "alpha_doubling=20", section="soft_sampling"),
    "scheduled sampling, straight-through": sampling("scheduled_sampling_straight_through", section="soft_sampling"),
    "consistency, target": on_top("consistency"),
    "consistency, literal": on_top("consistency", "consistency.mode=literal", "consistency.stop_gradient=tf"),
    "consistency, marginal": on_top("consistency", "consistency.mode=marginal", "consistency.free_run=null"),
    "professor forcing": on_top("professor_forcing"),
    "professor forcing, gate open": on_top("professor_forcing", "professor_forcing.floor=0"),
    "REINFORCE, leave one out": on_top("reinforce"),
    "REINFORCE, self-critical": on_top("reinforce", "reinforce.baseline=greedy"),
    "expected reward, exact": on_top("expected_reward"),
    "MIXER": on_top("mixer", "mixer.warmup=0", "mixer.stage=20"),
    "minimum risk": on_top("minimum_risk"),
    "distillation, reverse": on_top("distillation"),
    "distillation, reverse, reach as given": on_top("distillation", "distillation.stop_reach=true"),
    "distillation, Jensen-Shannon": on_top("distillation", "distillation.interpolation=0.5"),
    "unlikelihood, invalid tokens": on_top("unlikelihood"),
    "unlikelihood, wrong predictions": on_top("unlikelihood", "unlikelihood.tokens=wrong_prediction"),
    "unlikelihood, siblings": fine_tuned(
        f"{TOP},unlikelihood", "mitigations.unlikelihood.tokens=siblings", "data.num_negatives=4"
    ),
    "margin": on_top("margin"),
    "prefix margins": on_top("prefix_margin"),
    "BASH": self_trained(f"{TOP},bash"),
    "BASH, literal": self_trained(f"{TOP},bash_literal"),
    "RAC": self_trained(f"{TOP},rac"),
    "RAC, gold corrections": self_trained(f"{TOP},rac_gold"),
    "NEFTune": fine_tuned(f"{TOP},neftune"),
    "SPIN": preferred(spin, "spin.iterations=2", iterations=2),
    "DPO, beam errors": preferred(dpo),
    "DPO, rankings": preferred(dpo, "dpo.source=ranking"),
}


def ranking(directory: Path) -> Mapping[str, float]:
    """What evaluate.py found."""
    metrics: dict[str, float] = json.loads((directory / "metrics.json").read_text())
    return metrics


COLUMNS = ["cvr", "ndcg", *(f"recall@{k}" for k in range(1, 6)), "free_run_ndcg", "invalid_rate"]
TABLE = Table(
    root=Path("runs/mitigations"),
    base=fine_tuned(TOP),
    base_steps=600,
    methods=METHODS,
    evaluation=(),
    read=ranking,
    columns={metric.name: metric.column for metric in metrics_among(COLUMNS)},
)


@dataclass
class Options:
    """What the user can set; `--help` prints it."""

    seeds: str = option("0,1,2", "seeds of initial weights, shuffles and data order")
    steps: int = option(100, "steps of each method")
    rows: str = option("", "names that the methods wanted begin with, between semicolons; without, all")


def run(options: Options) -> None:
    """Make the data if it is missing, and the table."""
    if not DATA.exists():
        build(WordNetOptions(out=str(DATA), subtree="mammal.n.01", test_size=200))
    wanted = [name.strip() for name in options.rows.split(";")]
    chosen = {name: method for name, method in METHODS.items() if name.startswith((REFERENCE, *wanted))}
    replace(TABLE, methods=chosen).report(options.seeds, options.steps)


if __name__ == "__main__":
    torch.set_num_threads(1)
    command = Command(__doc__ or "", lambda given: run(given.options), Options, bare=True)
    sys.exit(execute(command, sys.argv[1:]))
