"""diagnostics.json and mismatch.png: teacher forcing against free running, position by position.

The figure is the mismatch paper's Figure 1, on a real model. Dimension letters: N queries, L tokens of the longest
docID.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Floats
from stoical.evaluation.result import Diagnostics, QueryResult
from stoical.reporting.evaluation_dir import DIAGNOSTICS
from stoical.reporting.figure import FADED, plt, save
from stoical.trie.node_weights import TargetSettings

KINDS = ("teacher_forced", "gold", "free_running", "common", "unconstrained")
LABELS = {
    "teacher_forced": "teacher forcing:\nprefixes by the target",
    "gold": "teacher forcing:\nprefixes of the best docID",
    "free_running": "free running:\nprefixes by the model",
}
RARE = 0.01  # share of docIDs


def write_diagnostics(rows: Sequence[QueryResult], target: TargetSettings, directory: Path, name: str) -> None:
    """Write both files, from the `diagnostics` of every query.

    `name` is the run's and the data's, `target` what the run trains on.
    """
    found = summarise_diagnostics([row.diagnostics for row in rows if row.diagnostics is not None])
    whole = {"num_queries": len(rows), "target": asdict(target), **found}
    text, figure = (directory / file for file in DIAGNOSTICS)
    text.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    plot_mismatch(found, f"{name}: {len(rows)} queries", figure)


def summarise_diagnostics(rows: Sequence[Diagnostics]) -> dict[str, Any]:
    """Lists by position, over all queries; null where no prefix is as long.

    `prefixes`: how often the position is written, a query. `kl` (nats) and `valid_mass` are means over prefixes, so
    that the sum of prefixes * kl is a docID's: `docid_kl`, KL(pi || p) where teacher-forced. `alive`: of the
    free-running prefixes, the share that pi has too. `mismatch`: kl free-running on those, less kl teacher-forced.
    `off_trie`: the share of unconstrained runs that have left the query's docIDs with this token, or before.
    """
    sums = {kind: {key: _summed(rows, kind, key) for key in ("prefixes", "kl", "valid")} for kind in KINDS}
    count, prefixes = len(rows), {kind: own["prefixes"] for kind, own in sums.items()}
    kl = {kind: _mean(own["kl"], own["prefixes"]) for kind, own in sums.items()}
    left = sums["unconstrained"]["prefixes"] - sums["unconstrained"]["valid"]
    return {
        "prefixes": {kind: _numbers(prefixes[kind] / count) for kind in KINDS},
        "kl": {kind: _numbers(kl[kind]) for kind in KINDS},
        "valid_mass": {kind: _numbers(_mean(own["valid"], own["prefixes"])) for kind, own in sums.items()},
        "docid_kl": {kind: float(own["kl"].sum()) / count for kind, own in sums.items()},
        "mismatch": _numbers(kl["common"] - kl["teacher_forced"]),
        "alive": _numbers(_mean(prefixes["common"], prefixes["free_running"])),
        "off_trie": _numbers(left.cumsum() / count),
    }


def _summed(rows: Sequence[Diagnostics], kind: str, key: str) -> Floats:
    """[L] one quantity summed over queries; those whose docIDs are shorter add nothing."""
    lists = [row[kind][key] for row in rows]
    total = np.zeros(max(map(len, lists)))
    for values in lists:
        total[: len(values)] += values
    return total


def _mean(sums: Floats, prefixes: Floats) -> Floats:
    """[L] NaN where there are no prefixes."""
    return np.divide(sums, prefixes, out=np.full_like(sums, np.nan), where=prefixes > 0)


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def plot_mismatch(found: Mapping[str, Any], label: str, output: Path) -> None:
    """KL by position for each way of writing prefixes, the mismatch, and the shares, out of `summarise_diagnostics`.

    Up to the last position that one in a hundred of the target's docIDs reaches: means of fewer say little.
    """
    written = _values(found["prefixes"]["teacher_forced"])
    steps = np.arange(1, int((written >= RARE).sum()) + 1)
    figure, (above, middle, below) = plt.subplots(
        3, 1, figsize=(8.5, 7), sharex=True, height_ratios=[3, 1.3, 2.2], layout="constrained"
    )
    for kind, style in zip(LABELS, ("o-", "^:", "s--"), strict=True):
        above.plot(steps, _values(found["kl"][kind])[: len(steps)], style, markersize=4, label=LABELS[kind])
    above.set(ylabel="KL to the target (nats)", ylim=(0, None))
    middle.axhline(0, color=FADED)
    middle.bar(steps, _values(found["mismatch"])[: len(steps)], width=0.5)
    middle.set(ylabel="mismatch (nats)")
    below.bar(
        steps,
        100 * written[: len(steps)],
        width=0.5,
        color=FADED,
        alpha=0.5,
        label="docIDs of the target\nthat are as long",
    )
    shares = {
        "valid mass,\nteacher-forced": (found["valid_mass"]["teacher_forced"], "o-"),
        "valid mass,\nfree-running": (found["valid_mass"]["free_running"], "s--"),
        "alive: free runs that\nthe target could write": (found["alive"], "^:"),
        "off-trie: unconstrained\nruns that have left": (found["off_trie"], "x-"),
    }
    for name, (values, style) in shares.items():
        below.plot(steps, 100 * _values(values)[: len(steps)], style, markersize=4, label=name)
    below.set(xlabel="token of the docID", ylabel="%", ylim=(-3, 103))
    below.xaxis.get_major_locator().set_params(integer=True)
    for axis in (above, middle, below):
        axis.grid(alpha=0.3)
    for axis in (above, below):
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(label, fontsize=10)
    save(figure, output)


def _values(numbers: Sequence[float | None]) -> Floats:
    return np.array([np.nan if number is None else number for number in numbers])
