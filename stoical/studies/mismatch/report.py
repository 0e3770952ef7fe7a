"""The report of a study out of its parts: report.md, results.json and the figures."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stoical.common.files import write_whole
from stoical.reporting.tables import markdown
from stoical.studies.mismatch import compat, figures
from stoical.studies.mismatch.exact import COMPARED, Variant, main_variant, other_variants
from stoical.studies.mismatch.methods import NAMES, REFERENCE, methods
from stoical.studies.mismatch.run import Parts, best_trial, compat_part, method_part, tuning_part
from stoical.studies.mismatch.settings import MismatchSettings
from stoical.studies.mismatch.statistics import half_width
from stoical.studies.mismatch.tables import (
    Rows,
    compare,
    compat_differences,
    compat_table,
    exact_table,
    settings_table,
)

REFERENCES = ("chance", "modal token", "oracle")
COMPARED_BY = {"ar_quality": "AR quality", "relevant": "greedy runs that write a relevant docID,"}  # in block 1


def write_report(settings: MismatchSettings, parts: Parts) -> str:
    """Write the report and the figures; the tables, to be printed."""
    output = Path(settings.output)
    results: dict[str, Any] = {"settings": asdict(settings), "machine": machine(), "seconds": parts.seconds()}
    lines = ["# The mismatch, simulated", "", _header(settings, parts), ""]
    if 1 in settings.chosen_blocks():
        lines += _block_one(settings, parts, output, results)
    if 2 in settings.chosen_blocks():
        lines += _block_two(settings, parts, output, results)
    lines += ["## Settings of both blocks", "", settings_table(settings, ""), ""]
    write_whole(output / "results.json", json.dumps(results, indent=1) + "\n")
    write_whole(output / "report.md", "\n".join(lines))
    return "\n".join([*(line for line in lines if not line.startswith("!")), f"written to {output}"])


def machine() -> dict[str, Any]:
    """What the study ran on."""
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _header(settings: MismatchSettings, parts: Parts) -> str:
    found = machine()
    return (
        f"`stoical mismatch` with the settings below; seed {settings.seed}. "
        f"{parts.seconds() / 60:.1f} minutes of processor time; {found['cpus']} CPUs, {found['threads']} threads, "
        f"torch {found['torch']}. ± is half of a 95% t interval over replications."
    )


def compat_rows(settings: MismatchSettings, parts: Parts) -> Rows:
    """Block 1's measures by method, over all replications."""
    chunks = [parts.read(compat_part(first)) for first in range(0, settings.compat.replications, compat.CHUNK)]
    return {
        name: {key: np.concatenate([chunk[name][key] for chunk in chunks]) for key in chunks[0][name]}
        for name in chunks[0]
    }


def _block_one(settings: MismatchSettings, parts: Parts, output: Path, results: dict[str, Any]) -> list[str]:
    rows = compat_rows(settings, parts)
    differences = {key: compat_differences(rows, key) for key in COMPARED_BY}
    results["compat"] = _means(rows)
    results["compat_differences"] = {
        key: {name: asdict(one) for name, one in found.items()} for key, found in differences.items()
    }
    trained = figures.table_of(rows, compat.METHODS)
    unit = "nats / V" if settings.compat.reduction == "mean" else "nats"
    figures.by_position(trained, unit, "block 1: the paper's conventions", output / "figure1_compat.png")
    flat = {name: float(rows[name]["ar_quality"].mean()) for name in compat.REFERENCES}
    figures.by_method(trained, "ar_quality", "AR quality (token accuracy)", flat, output / "figure2_compat.png")
    said = [
        f"- {COMPARED_BY[key]} of {name} less teacher forcing's: {one.mean:+.4f} ± {one.half:.4f} (p = {one.p:.2g}; "
        f"{'significant' if one.significant else 'not significant'} after Holm)"
        for key, found in differences.items()
        for name, one in found.items()
    ]
    return [
        "## Block 1: the paper's conventions",
        "",
        "The paper's numbers are in brackets. chance and modal token know nothing of the query and the prefix.",
        "",
        compat_table(rows),
        "",
        *said,
        "",
        "![KL by position](figure1_compat.png)",
        "![qualities](figure2_compat.png)",
        "",
        settings_table(settings, "compat"),
        "",
    ]


def variant_rows(parts: Parts, variant: Variant, names: Sequence[str]) -> Rows:
    """Block 2's measures by method, what was not trained first."""
    return {**parts.read(method_part(variant, "references")), **{n: parts.read(method_part(variant, n)) for n in names}}


def _block_two(settings: MismatchSettings, parts: Parts, output: Path, results: dict[str, Any]) -> list[str]:
    main = main_variant(settings)
    names = [name for name in NAMES if name in {*settings.chosen_methods(NAMES), *COMPARED}]
    rows = variant_rows(parts, main, names)
    compared = compare(rows, REFERENCES)
    others = {variant: variant_rows(parts, variant, COMPARED) for variant in other_variants(settings)}
    results["exact"] = _means(rows)
    results["exact_differences"] = {
        column: {name: asdict(one) for name, one in found.items()} for column, found in compared.items()
    }
    results["variants"] = {variant.name: _means(found) for variant, found in others.items()}
    compared_rows = figures.table_of(rows, COMPARED)
    figures.by_position(compared_rows, "nats", f"block 2: {main.name}", output / "figure1_exact.png")
    trained = {name: row for name, row in rows.items() if name not in REFERENCES}
    chance = {name: float(rows[name]["expected_gain"].mean()) for name in ("chance", "modal token")}
    figures.by_method(trained, "expected_gain", "AR quality: expected gain", chance, output / "figure2_exact.png")
    figures.by_metric(compared, REFERENCE, output / "methods.png")
    lengths = {
        variant.length: figures.table_of(found, COMPARED)
        for variant, found in sorted(others.items(), key=lambda pair: pair[0].length)
        if (variant.generator, variant.shared) == (main.generator, main.shared)
    }
    figures.by_length(lengths, output / "mismatch_by_length.png")
    return [
        "## Block 2: exact, on tasks that can be learned",
        "",
        f"{main.name}; queries that were not in training, every document of the corpus scored. {REFERENCE}: its means. "
        "Other trained rows: paired differences from it; **bold** is better and *italics* worse at 5% after Holm's "
        "correction over the methods of a column. Mismatch: mean over t > 1 of KL(q ‖ p) where the model goes, less "
        "where the target goes.",
        "",
        exact_table(rows, compared),
        "",
        "![methods](methods.png)",
        "![KL by position](figure1_exact.png)",
        "![qualities](figure2_exact.png)",
        "![lengths](mismatch_by_length.png)",
        "",
        "### Other generators, parameters and lengths",
        "",
        *_variant_tables(others),
        "### Tuning",
        "",
        _tuning_table(settings, parts, names),
        "",
        settings_table(settings, "exact"),
        "",
    ]


def _variant_tables(others: dict[Variant, Rows]) -> list[str]:
    lines = []
    for variant, rows in others.items():
        lines += [f"**{variant.name}**", "", exact_table(rows, compare(rows, REFERENCES)), ""]
    return lines


def _tuning_table(settings: MismatchSettings, parts: Parts, names: Sequence[str]) -> str:
    known, body = methods(settings.length), []
    for name in names:
        if known[name].alone:
            body.append([name, "none", "", ""])
            continue
        reached = 100 * parts.read(tuning_part(name))["ndcg"]
        trials = [f"{value:.2f}" for value in reached]
        best = best_trial(settings, parts, name)
        trials[best] = f"**{trials[best]}**"
        body.append([name, known[name].knob, ", ".join(trials), str(best + 1)])
    return markdown([["method", "what was tried", "nDCG of the three trials", "chosen"], *body])


def _means(rows: Rows) -> dict[str, dict[str, Any]]:
    """What results.json has of a row: mean and half interval of each number, and means by position."""
    found: dict[str, dict[str, Any]] = {}
    for name, measured in rows.items():
        found[name] = {
            key: [float(values.mean()), half_width(values)] if values.ndim == 1 else values.mean(axis=0).tolist()
            for key, values in measured.items()
        }
    return found
