"""`python -m examples.plain_text`: BASH and RAC beside supervised fine-tuning (SFT) and NEFTune, on plain text.

The task is the chain of hypernyms of a noun (`stoical prepare chains`). For each seed a small model is trained from
scratch, 300 steps of SFT; from its weights SFT and each method train on for as many steps of as many texts. The table
is like that of `examples.mitigations`; its texts are what greedy decoding writes without a trie.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.wordnet.chains import ChainOptions, build
from examples.side_by_side import Table, fine_tuned, self_trained
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.reporting.generation import GENERATION, TITLES

DATA = Path("data/chains")
SFT = "text_sft,small,chains"


def generation(directory: Path) -> Mapping[str, float]:
    """What the evaluation found of the texts that the model writes."""
    found: dict[str, float] = json.loads((directory / GENERATION).read_text())
    return found


TABLE = Table(
    root=Path("runs/plain_text"),
    base=fine_tuned(SFT),
    base_steps=300,
    methods={
        "SFT": fine_tuned(SFT),
        "NEFTune": fine_tuned(f"{SFT},neftune"),
        "BASH": self_trained(f"{SFT},bash_literal"),
        "RAC": self_trained(f"{SFT},rac_text"),
        "RAC, gold corrections": self_trained(f"{SFT},rac_text", "self_training.rac.target=gold"),
    },
    evaluation=("eval.generation=true",),
    read=generation,
    columns={**TITLES, "nll": "100 x nats a token (↓)"},
)


@dataclass
class Options:
    """What the user can set; `--help` prints it."""

    seeds: str = option("0,1,2", "seeds of initial weights, shuffles and data order")
    steps: int = option(200, "steps of each method")


def run(options: Options) -> None:
    """Make the data if it is missing, and the table."""
    if not DATA.exists():
        build(ChainOptions(out=str(DATA), subtree="mammal.n.01"))
    TABLE.report(options.seeds, options.steps)


if __name__ == "__main__":
    torch.set_num_threads(1)
    command = Command(__doc__ or "", lambda given: run(given.options), Options, bare=True)
    sys.exit(execute(command, sys.argv[1:]))
