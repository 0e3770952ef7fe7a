"""`python -m examples.bash_checks`: what arXiv 2410.14655 leaves open about BASH, three tables.

check=beta: its share beta of the model's own tokens, on the small ranking task, with the shift itself before and after:
by position, the total variation between what the target and what the model writes (TV), how many of the model's
prefixes the target has too (alive), how many runs without the trie have left it (off trie), and the KL a token on the
model's own prefixes. check=text: the same shares on plain text. check=size: what BASH costs, generation included, and
gains, at three sizes of the model. The start is as in `examples.mitigations` and `examples.plain_text`. A seed takes 6
minutes of one core (beta), 4 (text) and 25 (size); what is there is not made again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from data_prep.wordnet.chains import ChainOptions
from data_prep.wordnet.chains import build as build_chains
from data_prep.wordnet.hypernyms import WordNetOptions, build
from examples import mitigations, plain_text
from examples.side_by_side import Method, Table, fine_tuned, self_trained
from stoical.commands.shell import Command, execute
from stoical.common.options import option

BETAS = (0.1, 0.2, 0.4, 0.6)
SHIFT = {  # title, and the positions that are shown
    "distance": ("TV after {} (↓)", (1, 4)),
    "alive": ("alive at {} (↑)", (4,)),
    "off_trie": ("off trie by {} (↓)", (1, 4)),
    "kl": ("100 x KL at {} (↓)", (1, 2, 4)),
}
SIZES = {  # hidden size, layers, heads: 0.15M, 0.9M and 5M parameters
    "small": (64, 2, 2),
    "medium": (128, 4, 4),
    "large": (256, 6, 8),
}


def with_betas(reference: str, plain: Method, recipe: str) -> dict[str, Method]:
    """Plain training, and BASH at every share."""
    rows = {f"BASH, beta = {beta}": self_trained(recipe, f"self_training.bash.beta={beta}") for beta in BETAS}
    return {reference: plain, **rows}


def shift(directory: Path) -> Mapping[str, float]:
    """The metrics of an evaluation, and its diagnostics at some positions; 0 where no docID is as long."""
    found = dict(mitigations.ranking(directory))
    diagnostics = json.loads((directory / "diagnostics.json").read_text())
    rows = {**diagnostics, "kl": diagnostics["kl"]["free_running"]}
    for name, (_, positions) in SHIFT.items():
        for position in positions:
            here = rows[name][position - 1] if position <= len(rows[name]) else None
            found[f"{name}@{position}"] = here or 0.0
    return found


def beta_table() -> Table:
    """The ranking task."""
    columns = {"cvr": "CVR (↓)", "ndcg": "nDCG (↑)", "recall@1": "R@1 (↑)", "recall@5": "R@5 (↑)"}
    columns |= {f"{name}@{at}": title.format(at) for name, (title, positions) in SHIFT.items() for at in positions}
    return Table(
        root=Path("runs/bash_checks/beta"),
        base=fine_tuned(mitigations.TOP),
        base_steps=600,
        methods=with_betas("teacher forcing", fine_tuned(mitigations.TOP), f"{mitigations.TOP},bash"),
        evaluation=("eval.diagnostics=true",),
        read=shift,
        columns=columns,
    )


def text_table() -> Table:
    """The chains of hypernyms as plain text."""
    return Table(
        root=Path("runs/bash_checks/text"),
        base=fine_tuned(plain_text.SFT),
        base_steps=300,
        methods=with_betas("SFT", fine_tuned(plain_text.SFT), f"{plain_text.SFT},bash_literal"),
        evaluation=plain_text.TABLE.evaluation,
        read=plain_text.generation,
        columns=plain_text.TABLE.columns,
    )


def size_table(size: str) -> Table:
    """The ranking task with a model of one size."""
    hidden, layers, heads = SIZES[size]
    words = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    words |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    shape = [f"model.config.{key}={value}" for key, value in words.items()]
    plain = fine_tuned(mitigations.TOP, *shape)
    return Table(
        root=Path(f"runs/bash_checks/{size}"),
        base=plain,
        base_steps=600,
        methods={"teacher forcing": plain, "BASH": self_trained(f"{mitigations.TOP},bash", *shape)},
        evaluation=(),
        read=mitigations.ranking,
        columns=mitigations.TABLE.columns,
    )


def table_of(name: str) -> Table:
    """The table whose runs are in runs/bash_checks/NAME: beta, text, or a size."""
    makers = {"beta": beta_table, "text": text_table}
    return makers[name]() if name in makers else size_table(name)


@dataclass
class Options:
    """What the user can set; `--help` prints it."""

    check: Literal["beta", "text", "size"] = option("beta", "which table: beta, text or size")
    seeds: str = option("0,1,2", "seeds of initial weights, shuffles and data order")
    steps: int = option(100, "steps of each method; 200 on plain text is what docs/mitigations.md has")


def run(options: Options) -> None:
    """Make the data if it is missing, and the table."""
    if options.check == "text":
        if not plain_text.DATA.exists():
            build_chains(ChainOptions(out=str(plain_text.DATA), subtree="mammal.n.01"))
        table_of("text").report(options.seeds, options.steps)
        return
    if not mitigations.DATA.exists():
        build(WordNetOptions(out=str(mitigations.DATA), subtree="mammal.n.01", test_size=200))
    if options.check == "beta":
        table_of("beta").report(options.seeds, options.steps)
        return
    for size in SIZES:
        print(f"\n{size}: hidden size, layers, heads {SIZES[size]}")
        table_of(size).report(options.seeds, options.steps)


if __name__ == "__main__":
    torch.set_num_threads(1)
    command = Command(__doc__ or "", lambda given: run(given.options), Options, bare=True)
    sys.exit(execute(command, sys.argv[1:]))
